package policy

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
	"github.com/bootseal/bootseal/internal/credential"
)

// table is one table of the file, with the name that errors give it. It is
// walked by hand because the decoder matches struct fields case-insensitively.
type table struct {
	name   string
	values map[string]any
}

func (t table) errorf(key, format string, args ...any) error {
	where := key
	if t.name != "" {
		where = t.name + "." + key
	}
	return &Error{Where: where, Err: fmt.Errorf(format, args...)}
}

// only refuses keys that are not in known.
func (t table) only(known ...string) error {
	for _, key := range slices.Sorted(maps.Keys(t.values)) {
		if slices.Contains(known, key) {
			continue
		}
		for _, k := range known {
			if strings.EqualFold(k, key) {
				return t.errorf(key, "unknown key; it is written %q", k)
			}
		}
		return t.errorf(key, "unknown key; expected one of %s", strings.Join(known, ", "))
	}
	return nil
}

func (t table) str(key string) (string, error) {
	value, ok := t.values[key]
	if !ok {
		return "", nil
	}
	s, ok := value.(string)
	if !ok {
		return "", t.errorf(key, "expected a string, found %s", kind(value))
	}
	if s == "" {
		return "", t.errorf(key, "expected a value; leave the key out for the default")
	}
	for _, c := range s {
		if c < 0x20 || c == 0x7f || c >= 0x80 && c < 0xa0 || c == utf8.RuneError {
			return "", t.errorf(key, "%q contains a control character", s)
		}
	}
	return s, nil
}

func (t table) word(key string, known ...string) (string, error) {
	s, err := t.str(key)
	if err != nil || s == "" {
		return known[0], err
	}
	if !slices.Contains(known, s) {
		return "", t.errorf(key, "%q is not known; expected one of %s", s, strings.Join(known, ", "))
	}
	return s, nil
}

func (t table) boolean(key string, byDefault bool) (bool, error) {
	value, ok := t.values[key]
	if !ok {
		return byDefault, nil
	}
	b, ok := value.(bool)
	if !ok {
		return false, t.errorf(key, "expected true or false, found %s", kind(value))
	}
	return b, nil
}

func (t table) absolute(key string) (string, error) {
	s, err := t.str(key)
	if err != nil || s == "" {
		return s, err
	}
	const pathMax = 4095
	switch {
	case !strings.HasPrefix(s, "/"):
		return "", t.errorf(key, "%q is a relative path; expected one that begins with /", s)
	case path.Clean(s) != s || s == "/":
		return "", t.errorf(key, "%q is no plain path to a file; expected it without //, . and .., as in %q", s, path.Clean(s))
	case strings.HasSuffix(s, " ") || strings.HasSuffix(s, `\`):
		return "", t.errorf(key, "%q ends in a blank or backslash, which does not survive in a unit file", s)
	case len(s) > pathMax:
		return "", t.errorf(key, "the path has %d bytes; expected at most %d", len(s), pathMax)
	}
	return s, nil
}

func parse(text []byte) (*Policy, error) {
	if err := checkNesting(text); err != nil {
		return nil, err
	}
	var values map[string]any
	if _, err := toml.Decode(string(text), &values); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			return nil, &Error{Where: fmt.Sprintf("line %d", syntax.Position.Line), Err: errors.New(strings.TrimSuffix(syntax.Message, "."))}
		}
		return nil, err
	}
	top := table{values: values}
	if err := top.only("credential", "delivery", "private-mounts", "seal"); err != nil {
		return nil, err
	}
	delivery, err := top.word("delivery", string(Auto), string(Native), string(Prestart), string(Socket))
	if err != nil {
		return nil, err
	}
	private, err := top.boolean("private-mounts", true)
	if err != nil {
		return nil, err
	}
	p := &Policy{Delivery: Delivery(delivery), SharedMounts: !private}
	if p.SharedMounts && p.Delivery == Prestart {
		return nil, top.errorf("private-mounts", "delivery = %q shows a unit its credentials by a mount of its own; expected private-mounts = true, or another delivery", Prestart)
	}
	if p.Seal, err = parseSeal(top); err != nil {
		return nil, err
	}
	p.Credentials, err = parseCredentials(top)
	return p, err
}

func parseSeal(top table) (Seal, error) {
	value, ok := top.values["seal"]
	if !ok {
		return Seal{Key: KeyAuto}, nil
	}
	values, ok := value.(map[string]any)
	if !ok {
		return Seal{}, top.errorf("seal", "expected a table, written [seal]; found %s", kind(value))
	}
	t := table{name: "seal", values: values}
	if err := t.only("key", "pcrs"); err != nil {
		return Seal{}, err
	}
	key, err := t.word("key", KeyAuto, KeyHost, KeyTPM2, KeyHostTPM2, KeyNull)
	if err != nil {
		return Seal{}, err
	}
	seal := Seal{Key: key}
	list, ok := values["pcrs"].([]any)
	if !ok && values["pcrs"] != nil {
		return Seal{}, t.errorf("pcrs", "expected a list of PCR numbers such as [7, 14], found %s", kind(values["pcrs"]))
	}
	for _, item := range list {
		pcr, ok := item.(int64)
		switch {
		case !ok:
			return Seal{}, t.errorf("pcrs", "expected PCR numbers, found %s", kind(item))
		case pcr < 0 || pcr > 23:
			return Seal{}, t.errorf("pcrs", "%d is no PCR; expected 0 to 23", pcr)
		case slices.Contains(seal.PCRs, int(pcr)):
			return Seal{}, t.errorf("pcrs", "PCR %d stands there twice", pcr)
		}
		seal.PCRs = append(seal.PCRs, int(pcr))
	}
	slices.Sort(seal.PCRs)
	if len(seal.PCRs) > 0 && (key == KeyHost || key == KeyNull) {
		return Seal{}, t.errorf("pcrs", "key = %q does not use the TPM, so nothing can be bound to PCRs", key)
	}
	return seal, nil
}

func parseCredentials(top table) ([]Credential, error) {
	value := top.values["credential"]
	list, ok := value.([]map[string]any)
	if !ok && value != nil {
		return nil, top.errorf("credential", "expected tables, each written [[credential]]; found %s", kind(value))
	}
	if len(list) == 0 {
		return nil, errors.New("no [[credential]] in it; to mask a policy use a file of zero bytes or a link to /dev/null")
	}
	var all []Credential
	for i, values := range list {
		t := table{name: fmt.Sprintf("credential[%d]", i), values: values}
		c, err := parseCredential(t)
		if err != nil {
			return nil, err
		}
		for j, other := range all {
			if other.Name == c.Name {
				return nil, t.errorf("name", "%q is the name of credential[%d] already", c.Name, j)
			}
			if c.Option != "" && other.Option == c.Option && (c.Replaces == "" || other.Replaces == "" || c.Replaces == other.Replaces) {
				return nil, t.errorf("option", "%s takes credential[%d] already; where it stands several times in ExecStart=, each needs another file as replaces", c.Option, j)
			}
			if c.Environment != "" && other.Environment == c.Environment {
				return nil, t.errorf("environment", "%s is the path of credential[%d] already", c.Environment, j)
			}
		}
		all = append(all, c)
	}
	return all, nil
}

func parseCredential(t table) (Credential, error) {
	var c Credential
	err := t.only("environment", "name", "option", "replaces", "source")
	if err != nil {
		return c, err
	}
	if c.Name, err = t.str("name"); err != nil {
		return c, err
	}
	switch {
	case c.Name == "":
		return c, t.errorf("name", "missing; expected the credential's file name")
	case !credential.ValidName(c.Name):
		return c, t.errorf("name", "%q is no credential name: systemd takes up to 255 printable ASCII characters without / and :, and neither . nor ..", c.Name)
	case strings.ContainsAny(c.Name, " \"'\\%$"):
		return c, t.errorf("name", "%q contains a blank, quote, backslash, %% or $, which do not survive in a unit file", c.Name)
	}
	if c.Source, err = t.absolute("source"); err != nil {
		return c, err
	}
	if c.Source == "" {
		c.Source = CredentialStore + "/" + c.Name
	}
	if c.Replaces, err = t.absolute("replaces"); err != nil {
		return c, err
	}
	if c.Option, err = t.str("option"); err != nil {
		return c, err
	}
	if c.Option != "" && !validOption(c.Option) {
		return c, t.errorf("option", "%q is no command line option; expected one such as --password-file", c.Option)
	}
	if c.Environment, err = t.str("environment"); err != nil {
		return c, err
	}
	switch {
	case c.Environment == "":
	case !validVariable(c.Environment):
		return c, t.errorf("environment", "%q is no name of a variable; expected letters, digits and _, as in TOKEN_FILE", c.Environment)
	case c.Environment == "CREDENTIALS_DIRECTORY":
		return c, t.errorf("environment", "%s is the folder of all credentials; expected another variable", c.Environment)
	}
	return c, nil
}

// validVariable accepts what environ(7) and systemd take as a variable's name.
func validVariable(s string) bool {
	for i, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || i > 0 && '0' <= c && c <= '9') {
			return false
		}
	}
	return true
}

// validOption accepts -x and --some-option: nothing that would have to be quoted.
func validOption(s string) bool {
	name := strings.TrimLeft(s, "-")
	if name == "" || len(s)-len(name) < 1 || len(s)-len(name) > 2 {
		return false
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.:+", c) >= 0) {
			return false
		}
	}
	return true
}

func kind(value any) string {
	switch v := value.(type) {
	case string:
		return fmt.Sprintf("the string %q", v)
	case int64:
		return fmt.Sprintf("the number %d", v)
	case float64:
		return fmt.Sprintf("the number %v", v)
	case bool:
		return fmt.Sprintf("the boolean %v", v)
	case []any, []map[string]any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}
