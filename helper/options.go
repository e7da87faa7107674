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
	"github.com/bootseal/bootseal/policy"
)

const help = `bootseal [OPTIONS...] VERB [ARGUMENTS...]

Seal credentials to this machine and open them again.

Verbs:
  encrypt INPUT OUTPUT            Encrypt a plaintext file
  encrypt --unit=UNIT NAME [INPUT]
                                  Encrypt as the unit's policy says, to where it
                                  says; INPUT is - if not given
  decrypt INPUT [OUTPUT]          Decrypt a credential file
  setup                           Make the host key, if there is none yet
  has-tpm2                        Tell what there is for TPM 2.0
  preview [UNIT...]               Show the drop-ins that the generator would
                                  write, for all policies or these units
  inspect FILE...|UNIT...         Tell what credentials are bound to, without
                                  opening them
  check [UNIT...]                 Look for what keeps units with a policy from
                                  starting; 0 all well, 1 not, 2 could not look

Verbs for unit files:
  unseal --unit=%n NAME[:PATH]... Put plaintext where the unit's LoadCredential=
                                  finds it; in ExecStartPre=+
  cleanup --unit=%n               Take it away again; in ExecStopPost=+

INPUT and OUTPUT may be - for standard input and output.

Options:
  -h, --help                      Show this help
      --version                   Show the version
      --name=NAME                 The credential's name; from the file name if
                                  not given, empty for none
      --with-key=host|tpm2|host+tpm2|null|auto
                                  What to encrypt with (auto: the host key and
                                  the TPM, whichever there are)
  -H, -T                          The same as --with-key=host, --with-key=tpm2
      --tpm2-device=DEVICE        The TPM: a path, device:PATH, swtpm:path=PATH,
                                  swtpm:host=HOST,port=PORT, or auto
                                  ($SYSTEMD_TPM2_DEVICE, or /dev/tpmrm0)
      --tpm2-pcrs=PCR+PCR...      The PCRs, 0 to 23, to seal to. None if not
                                  given: systemd before 258 took PCR 7, and lost
                                  the secrets with every Secure Boot update
      --timestamp=TIME            The time of encryption, or at which not-after
                                  is checked when decrypting (now)
      --not-after=TIME            When the credential expires
      --newline=auto|yes|no       End decrypted output with a newline (auto: on
                                  a terminal)
  -p, --pretty                    Print a SetCredentialEncrypted= setting
      --allow-null                Decrypt with the null key also under Secure Boot
      --unit=UNIT                 Encrypt for this unit
      --json=short|pretty|off     Print tables as JSON, in one line or indented
      --no-legend                 Print tables without heading
      --unseal                    Check by opening the credentials, too
      --metrics=FILE              Write what check found for node_exporter
      --systemd=VERSION           Preview for a machine with this systemd
      --root=DIR                  Preview for the machine, or image, below DIR
  -q, --quiet                     Only the exit status of has-tpm2

Exit status, but for check and has-tpm2 (the sum of 1 firmware, 2 driver, 4 systemd,
8 kernel, 16 libraries, of those that are missing):
`

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
	timestamp  string
	notAfter   string
	newline    string
	pretty     bool
	allowNull  bool
	unit       string
	unitGiven  bool
	sealGiven  bool // an option that --unit= stands for
	quiet      bool
	arguments  []string
	host, tpm2 bool
}

func (o *options) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("bootseal", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.BoolVarP(&o.help, "help", "h", false, "")
	f.BoolVar(&o.version, "version", false, "")
	f.StringVar(&o.name, "name", "", "")
	f.StringVar(&o.key, "with-key", policy.KeyAuto, "")
	f.BoolVarP(&o.host, "H", "H", false, "")
	f.BoolVarP(&o.tpm2, "T", "T", false, "")
	f.StringVar(&o.device, "tpm2-device", "", "")
	f.StringVar(&o.pcrs, "tpm2-pcrs", "", "")
	f.StringVar(&o.timestamp, "timestamp", "now", "")
	f.StringVar(&o.notAfter, "not-after", "", "")
	f.StringVar(&o.newline, "newline", "auto", "")
	f.BoolVarP(&o.pretty, "pretty", "p", false, "")
	f.BoolVar(&o.allowNull, "allow-null", false, "")
	f.StringVar(&o.unit, "unit", "", "")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "")
	return f
}

// run finds the verb, before or between the options, and runs it.
func run(args []string) error {
	var o options
	f := o.flags()
	f.SetInterspersed(false)
	if err := f.Parse(args); err != nil {
		return usagef("%w", err)
	}
	switch {
	case o.help:
		return printHelp(os.Stdout)
	case o.version:
		_, err := fmt.Println("bootseal", version)
		return err
	case f.NArg() == 0:
		return usagef("no verb given")
	}
	name := f.Arg(0)
	verb, ok := verbs[name]
	if !ok {
		return usagef("unknown verb %q", name)
	}
	before := args[:len(args)-f.NArg()]
	return verb(append(slices.Clone(before), f.Args()[1:]...))
}

func printHelp(w io.Writer) error {
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

// errHelp ends a verb that was asked for help.
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
	for _, name := range []string{"name", "with-key", "H", "T", "tpm2-pcrs", "pretty"} {
		o.sealGiven = o.sealGiven || f.Changed(name)
	}
	switch {
	case len(o.arguments) < least:
		return nil, usagef("%s: too few arguments", verb)
	case len(o.arguments) > most:
		return nil, usagef("%s: too many arguments", verb)
	}
	if o.host {
		o.key = policy.KeyHost
	}
	if o.tpm2 {
		o.key = policy.KeyTPM2
	}
	if o.host && o.tpm2 || (o.host || o.tpm2) && f.Changed("with-key") {
		return nil, usagef("%s: more than one of -H, -T and --with-key=; for both keys give --with-key=host+tpm2", verb)
	}
	if o.key == "tpm2-absent" { // until 255
		o.key = policy.KeyNull
	}
	if !slices.Contains([]string{policy.KeyHost, policy.KeyTPM2, policy.KeyHostTPM2, policy.KeyNull, policy.KeyAuto}, o.key) {
		return nil, usagef("--with-key=%s: expected host, tpm2, host+tpm2, null or auto", o.key)
	}
	if !slices.Contains([]string{"auto", "yes", "no"}, o.newline) {
		return nil, usagef("--newline=%s: expected auto, yes or no", o.newline)
	}
	if o.name != "" && !credential.ValidName(o.name) {
		return nil, usagef("--name=%q: expected 1 to 255 printable ASCII characters without \":\" and \"/\"", o.name)
	}
	return o, nil
}

// parsePCRs reads a list such as 7+14 or 7,14; an empty one is none.
func parsePCRs(list string) (mask uint64, err error) {
	if list == "" {
		return 0, nil
	}
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == '+' || r == ',' }) {
		n, err := strconv.ParseUint(word, 10, 8)
		if err != nil || n > 23 {
			return 0, usagef("--tpm2-pcrs=%s: %q is not the number of a PCR, 0 to 23", list, word)
		}
		mask |= 1 << n
	}
	if mask == 0 {
		return 0, usagef("--tpm2-pcrs=%s: expected numbers joined by \"+\", or nothing for no PCRs", list)
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
		return uint64(at.UnixMicro()), credential.Infinity, nil
	}
	end, err := parseTimestamp(o.notAfter, now)
	if err != nil {
		return 0, 0, usagef("--not-after=%s: %w", o.notAfter, err)
	}
	return uint64(at.UnixMicro()), uint64(end.UnixMicro()), nil
}
