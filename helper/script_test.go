package main

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bootseal/bootseal/internal/systemd/systemdtest"
	"github.com/bootseal/bootseal/internal/tpmdevice/swtpmtest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"bootseal": main,
		// The real one is on the search path, too.
		"our-systemd-creds": func() { os.Args[0] = nameOfSystemdCreds; main() },
	})
}

// TestScript runs sessions at a prompt, each with a TPM and a host key of its
// own, which the real systemd-creds shares.
func TestScript(t *testing.T) {
	for program, what := range map[string]string{
		"systemd-creds":   "systemd, 250 or newer",
		"systemd-analyze": "systemd, 250 or newer",
		"swtpm":           "swtpm swtpm-tools",
		"tpm2_pcrextend":  "tpm2-tools libtss2-tcti-swtpm0",
		"unshare":         "util-linux",
		"fish":            "fish",
		"zsh":             "zsh",
	} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is not installed (Debian: apt-get install %s)", program, what)
		}
	}
	if os.Geteuid() != 0 {
		t.Fatal("the scripts make host keys and mounts: run the tests as root")
	}
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	completion, err := filepath.Abs("../completion")
	if err != nil {
		t.Fatal(err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			tpm := swtpmtest.New(t)
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("SYSTEMD_CREDENTIAL_SECRET", filepath.Join(env.WorkDir, "var", "credential.secret"))
					env.Setenv("SYSTEMD_TPM2_DEVICE", tpm.Spec())
					env.Setenv("TPM2TOOLS_TCTI", tpm.Spec())
					env.Setenv("TZ", "Europe/Berlin")
					env.Setenv("COMPLETION", completion)
					return nil
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"tpm":     func(ts *testscript.TestScript, neg bool, args []string) { power(ts, t, tpm, args) },
					"status":  status,
					"mode":    mode,
					"systemd": installSystemd,
				},
			})
		})
	}
}

// power is the command "tpm off", "tpm on", "tpm restart", "tpm replace" or "tpm
// faulty FAULT".
func power(ts *testscript.TestScript, t *testing.T, tpm *swtpmtest.TPM, args []string) {
	if len(args) == 2 && args[0] == "faulty" {
		faulty(ts, t, tpm, args[1])
		return
	}
	if len(args) != 1 {
		ts.Fatalf("usage: tpm off|on|restart|replace|faulty FAULT")
	}
	switch args[0] {
	case "off":
		tpm.Stop()
	case "on":
		tpm.Start()
	case "restart":
		tpm.Stop()
		tpm.Start()
	case "replace":
		other := swtpmtest.New(t)
		ts.Setenv("SYSTEMD_TPM2_DEVICE", other.Spec())
		ts.Setenv("TPM2TOOLS_TCTI", other.Spec())
	default:
		ts.Fatalf("unknown argument %q", args[0])
	}
}

// status is the command "status N COMMAND...": exec, with the exit status that
// is expected.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		got = strconv.Itoa(exit.ExitCode())
	} else {
		ts.Check(err)
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, expected %s", got, args[0])
	}
}

// mode is the command "mode 0600 FILE...".
func mode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: mode 0600 FILE...")
	}
	for _, file := range args[1:] {
		st, err := os.Stat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", st.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, expected %s", file, got, args[0])
		}
	}
}

// installSystemd is the command "systemd VERSION DIR": the tree DIR is a machine with
// that systemd, which has TPM2 support but lacks the libraries for it.
func installSystemd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: systemd VERSION DIR")
	}
	library := "libsystemd-shared-" + args[0] + ".so"
	for name, content := range map[string][]byte{
		"proc/1/exe":                 systemdtest.Program(elf.EM_X86_64, "/usr/lib/systemd", "", library),
		"usr/lib/systemd/" + library: systemdtest.Program(elf.EM_X86_64, "", "\x00+PAM +TPM2 -XZ\x00"),
	} {
		file := ts.MkAbs(filepath.Join(args[1], name))
		ts.Check(os.MkdirAll(filepath.Dir(file), 0o755))
		ts.Check(os.WriteFile(file, content, 0o755))
	}
}
