package explain

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/policy"
)

// managerTime bounds a question to systemd; a start or reload may take longer.
const managerTime = 20 * time.Second

// readStartup asks systemd and the journal.
func readStartup(name string) (*startup, error) {
	ctx, cancel := context.WithTimeout(context.Background(), managerTime)
	defer cancel()
	m, err := manager.New(ctx)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	unit, service, err := m.Properties(name)
	if err != nil {
		return nil, err
	}
	s := &startup{
		unit: name, load: manager.Text(unit["LoadState"]), active: manager.Text(unit["ActiveState"]), sub: manager.Text(unit["SubState"]),
		result: manager.Text(service["Result"]), status: manager.Text(service["StatusText"]),
		conditions: checksOf(unit["Conditions"]), asserts: checksOf(unit["Asserts"]),
	}
	s.mainCode, _ = service["ExecMainCode"].(int32)
	s.mainStatus, _ = service["ExecMainStatus"].(int32)
	s.encrypted = encryptedOf(service["LoadCredentialEncrypted"])
	if parts, ok := unit["LoadError"].([]any); ok && len(parts) == 2 {
		s.loadError = manager.Text(parts[1])
	}
	if id, ok := unit["InvocationID"].([]byte); ok {
		s.invocation = hex.EncodeToString(id)
	}
	if p, err := policy.ForUnit("/", name); err == nil {
		s.replaced = p.Replaced()
	}
	s.log = manager.Journal(ctx, name, s.invocation)
	if s.lacksDependency() {
		s.broken = broken(m, unit)
	}
	return s, nil
}

// broken returns the units that have failed, of those that a unit with these
// properties needs. Where systemd does not tell there are none.
func broken(m *manager.Manager, unit map[string]any) (all []string) {
	for _, kind := range []string{"Requires", "Requisite", "BindsTo"} {
		names, _ := unit[kind].([]string)
		for _, name := range names {
			if m.State(name) == "failed" {
				all = append(all, name)
			}
		}
	}
	return all
}

// checksOf reads the property Conditions or Asserts, a(sbbsi): type, trigger,
// negate, parameter, result; of those that trigger, all have to fail.
func checksOf(value any) []unitCheck {
	list, _ := value.([][]any)
	var all []unitCheck
	triggers, triggered := -1, false
	for _, item := range list {
		if len(item) != 5 {
			continue
		}
		trigger, _ := item[1].(bool)
		negate, _ := item[2].(bool)
		result, _ := item[4].(int32)
		prefix := ""
		if negate {
			prefix = "!"
		}
		c := unitCheck{fmt.Sprintf("%s=%s%s", manager.Text(item[0]), prefix, manager.Text(item[3])), result < 0}
		if trigger {
			triggered = triggered || result > 0
			triggers = len(all)
			c.failed = false
		}
		all = append(all, c)
	}
	if triggers >= 0 && !triggered && slices.ContainsFunc(list, func(item []any) bool {
		result, _ := item[4].(int32)
		return result < 0
	}) && failed(all) == "" {
		all[triggers].failed = true
	}
	return all
}

// encryptedOf reads the property LoadCredentialEncrypted, a(ss): names and paths.
func encryptedOf(value any) (all []policy.Credential) {
	list, _ := value.([][]any)
	for _, item := range list {
		if len(item) != 2 {
			continue
		}
		source := manager.Text(item[1])
		if !path.IsAbs(source) {
			source = inCredstore(source)
		}
		all = append(all, policy.Credential{Name: manager.Text(item[0]), Source: source})
	}
	return all
}

// inCredstore finds an encrypted credential where systemd looks for those without
// a path.
func inCredstore(name string) string {
	for _, folder := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib"} {
		file := path.Join(folder, "credstore.encrypted", name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return path.Join(policy.CredentialStore, name)
}
