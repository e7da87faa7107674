package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
)

var errUsage = errors.New("wrong usage")

type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// options are those of the verbs at a prompt.
type options struct {
	help, version bool

	name       string
	nameGiven  bool
	key        string
	pcrs       string
	device     string
	signature  string
	timestamp  string
	notAfter   string
	newline    string
	transcode  string
	json       string
	noLegend   bool
	pretty     bool
	allowNull  bool
	refuseNull bool
	system     bool
	user       string
	scope      *encryption.Scope // of user
	compat     int               // 0 if not given
	unit       string
	unitGiven  bool
	sealGiven  bool // an option that --unit= stands for
	quiet      bool
	arguments  []string

	publicKey          string
	publicKeyPCRs      string
	publicKeyPCRsGiven bool
}

func (o *options) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet(program(), pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.BoolVarP(&o.help, "help", "h", false, "")
	f.BoolVar(&o.version, "version", false, "")
	f.StringVar(&o.name, "name", "", "")
	f.StringVar(&o.key, "with-key", policy.KeyAuto, "")
	f.BoolFuncP("H", "H", "", func(string) error { o.key = policy.KeyHost; return nil })
	f.BoolFuncP("T", "T", "", func(string) error { o.key = keyTPM2Best; return nil })
	f.StringVar(&o.device, "tpm2-device", "", "")
	f.StringVar(&o.pcrs, "tpm2-pcrs", "", "")
	f.StringVar(&o.publicKey, "tpm2-public-key", "", "")
	f.StringVar(&o.publicKeyPCRs, "tpm2-public-key-pcrs", "", "")
	f.StringVar(&o.signature, "tpm2-signature", "", "")
	f.StringVar(&o.timestamp, "timestamp", "now", "")
	f.StringVar(&o.notAfter, "not-after", "", "")
	f.StringVar(&o.newline, "newline", "auto", "")
	f.StringVar(&o.transcode, "transcode", transcodings[0], "")
	f.StringVar(&o.json, "json", jsonOff, "")
	f.BoolVar(&o.noLegend, "no-legend", false, "")
	f.BoolVarP(&o.pretty, "pretty", "p", false, "")
	f.BoolFunc("allow-null", "", func(string) error { o.allowNull, o.refuseNull = true, false; return nil })
	f.BoolFunc("refuse-null", "", func(string) error { o.allowNull, o.refuseNull = false, true; return nil })
	f.BoolVar(&o.system, "system", false, "")
	f.BoolFunc("user", "", func(string) error {
		if o.user == "" {
			o.user = self
		}
		return nil
	})
	f.StringVar(&o.user, "uid", "", "")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "")
	// There is neither a pager nor a question here.
	f.Bool("no-pager", false, "")
	f.Bool("no-ask-password", false, "")
	if !asSystemdCreds() {
		f.IntVar(&o.compat, "compat", 0, "")
		f.StringVar(&o.unit, "unit", "", "")
	}
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.NoOptDefVal != "" {
			flag.Value, flag.NoOptDefVal = onlyGiven{flag.Value}, noArgument
		}
	})
	return f
}

// onlyGiven is an option that takes no argument. With one, pflag would let
// --user=NAME be --user, and --allow-null=no be --allow-null.
type onlyGiven struct{ pflag.Value }

const noArgument = "\x00" // can be no part of the command line

func (v onlyGiven) Set(argument string) error {
	if argument != noArgument {
		return errors.New("it takes no argument")
	}
	return v.Value.Set("true")
}

// The words that --transcode= and --json= take; the first does nothing.
var (
	transcodings = []string{"off", "base64", "unbase64", "hex", "unhex"}
	jsonForms    = []string{"pretty", "short", jsonOff}
)

// run finds the verb, before or between the options, and runs it.
func run(args []string) error {
	var o options
	f := o.flags()
	f.SetInterspersed(false)
	if asSystemdCreds() {
		args = unabbreviated(f, args)
	}
	if err := f.Parse(args); err != nil {
		return usagef("%w", err)
	}
	switch {
	case o.help:
		return printHelp(os.Stdout)
	case o.version:
		return printVersion()
	case f.NArg() == 0 && o.device == "list":
		return listTPMs()
	case f.NArg() == 0 && asSystemdCreds():
		return list(args)
	case f.NArg() == 0:
		return usagef("no verb given")
	}
	name := f.Arg(0)
	verb, ok := verbs[name]
	if asSystemdCreds() && !slices.Contains(verbsOfSystemdCreds, name) {
		ok = false
	}
	if !ok {
		return usagef("unknown verb %q", name)
	}
	before := args[:len(args)-f.NArg()]
	return verb(append(slices.Clone(before), f.Args()[1:]...))
}

func printHelp(w io.Writer) error {
	if asSystemdCreds() {
		_, err := io.WriteString(w, helpOfSystemdCreds)
		return err
	}
	var text strings.Builder
	text.WriteString(help)
	shown := -1
	for _, o := range outcomes {
		if o.status != shown {
			fmt.Fprintf(&text, "  %2d  %s\n", o.status, o.meaning)
		}
		shown = o.status
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// errHelp ends a verb that was asked for help, or for what its options can be.
var errHelp = errors.New("help was shown")

// parse reads the arguments of a verb that takes from least to most of them.
func parse(verb string, args []string, least, most int) (*options, error) {
	o := &options{}
	f := o.flags()
	if err := f.Parse(args); err != nil {
		return nil, usagef("%s: %w", verb, err)
	}
	if o.help {
		if err := printHelp(os.Stdout); err != nil {
			return nil, err
		}
		return nil, errHelp
	}
	o.arguments = f.Args()
	o.nameGiven, o.unitGiven = f.Changed("name"), f.Changed("unit")
	o.publicKeyPCRsGiven = f.Changed("tpm2-public-key-pcrs")
	for _, name := range []string{"name", "with-key", "H", "T", "tpm2-pcrs", "tpm2-public-key", "tpm2-public-key-pcrs", "user", "uid", "pretty"} {
		o.sealGiven = o.sealGiven || f.Changed(name)
	}
	for _, option := range []struct {
		value, heading string
		words          []string
	}{
		{o.key, "Supported key types:", keyWords()},
		{o.transcode, "Supported transcode types:", transcodings},
		{o.json, "", jsonForms},
	} {
		if option.value != "help" {
			continue
		}
		if option.heading != "" && asSystemdCreds() && !o.noLegend {
			fmt.Println(option.heading)
		}
		fmt.Println(strings.Join(option.words, "\n"))
		return nil, errHelp
	}
	if o.device == "list" {
		if err := listTPMs(); err != nil {
			return nil, err
		}
		return nil, errHelp
	}
	switch {
	case len(o.arguments) < least:
		return nil, usagef("%s: too few arguments", verb)
	case len(o.arguments) > most:
		return nil, usagef("%s: too many arguments", verb)
	}
	keys := 0
	for _, name := range []string{"with-key", "H", "T"} {
		if f.Changed(name) {
			keys++
		}
	}
	if keys > 1 && !asSystemdCreds() {
		return nil, usagef("%s: more than one of -H, -T and --with-key=; for both keys give --with-key=host+tpm2", verb)
	}
	if f.Changed("compat") && (!systemd.EncryptedCredentials.In(o.compat) || o.compat > 9999) {
		return nil, usagef("--compat=%d: expected a version of systemd, %d or newer: older ones know no encrypted credentials", o.compat, systemd.EncryptedCredentials.From)
	}
	if f.Changed("not-after") && o.notAfter == "" {
		return nil, usagef("--not-after=: %w; leave the option out for a credential that does not expire", errTimestamp)
	}
	if o.name != "" && !credential.ValidName(o.name) {
		return nil, usagef("--name=%q: expected 1 to 255 printable ASCII characters without \":\" and \"/\"", o.name)
	}
	if _, _, err := o.times(time.Now()); err != nil {
		return nil, err
	}
	for option, list := range map[string]string{"tpm2-pcrs": o.pcrs, "tpm2-public-key-pcrs": o.publicKeyPCRs} {
		if _, err := parsePCRs(option, list); err != nil {
			return nil, err
		}
	}
	if o.user != "" {
		var err error
		if o.scope, err = scopeOf(o.user); err != nil {
			return nil, err
		}
	}
	return o, o.checkWords()
}

// checkWords checks the options that take one of some words, and turns words that
// mean the same into one.
func (o *options) checkWords() error {
	if o.key == "" {
		o.key = policy.KeyAuto
	}
	if o.newline == "" {
		o.newline = "auto"
	}
	if yes, ok := boolean(o.newline); ok {
		o.newline = map[bool]string{true: "yes", false: "no"}[yes]
	}
	if yes, ok := boolean(o.transcode); ok && !yes {
		o.transcode = transcodings[0]
	}
	for _, option := range []struct {
		name, value string
		words       []string
	}{
		{"with-key", o.key, append(keyWords(), keyTPM2Best)},
		{"newline", o.newline, []string{"auto", "yes", "no"}},
		{"transcode", o.transcode, transcodings},
		{"json", o.json, jsonForms},
	} {
		if !slices.Contains(option.words, option.value) {
			return usagef("--%s=%s: expected %s", option.name, option.value, strings.Join(option.words, ", "))
		}
	}
	return nil
}

// boolean reads the words that systemd takes for yes and no.
func boolean(word string) (yes, ok bool) {
	switch strings.ToLower(word) {
	case "1", "yes", "y", "true", "t", "on":
		return true, true
	case "0", "no", "n", "false", "f", "off":
		return false, true
	}
	return false, false
}

// pcrNames are those of systemd-creds(1) and the UAPI group's PCR registry.
var pcrNames = map[string]uint64{
	"platform-code": 0, "platform-config": 1, "external-code": 2, "external-config": 3,
	"boot-loader-code": 4, "boot-loader-config": 5, "host-platform": 6, "secure-boot-policy": 7,
	"kernel-initrd": 9, "ima": 10, "kernel-boot": 11, "kernel-config": 12, "sysexts": 13,
	"shim-policy": 14, "system-identity": 15, "debug": 16, "application-support": 23,
}

// parsePCRs reads the list of an option, such as 7+14 or 7,shim-policy; an empty
// one is none.
func parsePCRs(option, list string) (mask uint64, err error) {
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == '+' || r == ',' }) {
		n, ok := pcrNames[word]
		if !ok {
			n, err = strconv.ParseUint(word, 0, 8)
		}
		if err != nil || n > 23 || strings.Contains(word, "_") {
			return 0, usagef("--%s=%s: %q is neither the number of a PCR, 0 to 23, nor the name of one", option, list, word)
		}
		if mask&(1<<n) != 0 {
			return 0, usagef("--%s=%s: PCR %d is there twice", option, list, n)
		}
		mask |= 1 << n
	}
	return mask, nil
}

// times returns --timestamp= and --not-after= in microseconds since the epoch.
func (o *options) times(now time.Time) (timestamp, notAfter uint64, err error) {
	at, err := parseTimestamp(o.timestamp, now)
	if err != nil {
		return 0, 0, usagef("--timestamp=%s: %w", o.timestamp, err)
	}
	if o.notAfter == "" {
		return uint64(at.UnixMicro()), encryption.Infinity, nil
	}
	end, err := parseTimestamp(o.notAfter, now)
	if err != nil {
		return 0, 0, usagef("--not-after=%s: %w", o.notAfter, err)
	}
	return uint64(at.UnixMicro()), uint64(end.UnixMicro()), nil
}
