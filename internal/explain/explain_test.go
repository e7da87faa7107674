package explain

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/policy"
)

// What systemd 252 and 257 have in these properties, and what follows from it.
// The containers of test/e2e provoke most of them for real.
func TestExplain(t *testing.T) {
	opens := func() error { return nil }
	const hint = "encrypt the secret again on this machine"
	for name, test := range map[string]struct {
		startup       startup
		open          func() error
		cause, remedy string // parts; "" is unknown
	}{
		"runs":                {startup{load: "loaded", active: "active", sub: "running"}, opens, "runs", ""},
		"not there":           {startup{load: "not-found"}, opens, "no such unit", "list-unit-files"},
		"masked":              {startup{load: "masked"}, opens, "masked", "systemctl unmask a.service"},
		"cannot be read":      {startup{load: "bad-setting", loadError: "Invalid argument"}, opens, "Invalid argument", "systemd-analyze verify a.service"},
		"never started":       {startup{load: "loaded", active: "inactive", result: "success"}, opens, "not been started", "systemctl start a.service"},
		"dependency":          {startup{load: "loaded", active: "inactive", result: "success", broken: []string{"db.service"}, log: records([][2]string{{"systemd", "Dependency failed for A."}, {"systemd", "a.service: Job a.service/start failed with result 'dependency'."}}...)}, opens, "db.service, which it needs, failed", "systemctl status db.service"},
		"a dependency":        {startup{load: "loaded", active: "inactive", result: "success", log: records([][2]string{{"systemd", "a.service: Job a.service/start failed with result 'dependency'."}}...)}, opens, "a unit that it needs did not start", "systemctl list-dependencies a.service"},
		"not by systemd":      {startup{load: "loaded", active: "inactive", result: "success", broken: []string{"db.service"}, log: records([][2]string{{"app", "a.service: Job a.service/start failed with result 'dependency'."}}...)}, opens, "not been started", "systemctl start a.service"},
		"stopped":             {startup{load: "loaded", active: "inactive", result: "success", invocation: "a1"}, opens, "was stopped", "systemctl start a.service"},
		"condition":           {startup{load: "loaded", active: "inactive", result: "success", conditions: []unitCheck{{"ConditionPathExists=/a", false}, {"ConditionFileNotEmpty=/b", true}}}, opens, "ConditionFileNotEmpty=/b was not met", "systemctl cat"},
		"generator not run":   {startup{load: "loaded", active: "inactive", result: "success", replaced: []string{"/a"}, conditions: []unitCheck{{"ConditionFileNotEmpty=/a", true}}}, opens, "did not put it into force", "systemctl daemon-reload"},
		"may not look":        {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 243}, func() error { return &fs.PathError{Op: "open", Path: "/b", Err: fs.ErrPermission} }, "", ""},
		"knows of none":       {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 243}, func() error { return policy.ErrNoPolicy }, "", ""},
		"generator died":      {startup{load: "loaded", active: "inactive", asserts: []unitCheck{{"AssertPathExists=!/etc/bootseal/a.service.toml", true}}}, opens, "did not put it into force", "journalctl -b -t bootseal-generator"},
		"policy is a link":    {startup{load: "loaded", active: "inactive", asserts: []unitCheck{{"AssertPathIsSymbolicLink=!/run/bootseal/policy/a@.service.toml", true}}}, opens, "did not put it into force", "journalctl -b -t bootseal-generator"},
		"of another version":  {startup{load: "loaded", active: "inactive", asserts: []unitCheck{{"AssertFileNotEmpty=!/usr/lib/bootseal/a.service.toml", true}}}, opens, "did not put it into force", "journalctl -b -t bootseal-generator"},
		"the unit's own":      {startup{load: "loaded", active: "inactive", asserts: []unitCheck{{"AssertPathExists=!/etc/a/a.service.toml", true}}}, opens, "AssertPathExists=!/etc/a/a.service.toml was not met", "systemctl cat"},
		"said by a hook":      {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 81, status: "/blob: sealed by another TPM; " + hint}, opens, "/blob: sealed by another TPM", hint},
		"written by a hook":   {startup{load: "loaded", active: "failed", result: "exit-code", log: records([][2]string{{"bootseal", "bootseal: /blob: no"}, {"bootseal", "hint: do this"}, {"systemd", "Failed"}}...)}, opens, "/blob: no", "do this"},
		"not by a hook":       {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 3, log: records([][2]string{{"app", "bootseal: /blob: no"}, {"app", "hint: run this as root"}}...)}, opens, "", ""},
		"credentials":         {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 243}, func() error { return tpm.ErrForeignKey }, "another TPM", hint},
		"credentials open":    {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 243}, opens, "", ""},
		"start limit":         {startup{load: "loaded", active: "failed", result: "start-limit-hit", log: records([][2]string{{"systemd", "Main process exited, code=exited, status=243/CREDENTIALS"}}...)}, func() error { return tpm.ErrForeignKey }, "another TPM", hint},
		"no user":             {startup{load: "loaded", active: "failed", result: "start-limit-hit", mainCode: 1, mainStatus: 217}, opens, "217/USER", "systemctl cat a.service"},
		"no folder":           {startup{load: "loaded", active: "failed", result: "exit-code", mainCode: 1, mainStatus: 226, log: records([][2]string{{"(a)", "a.service: Failed to set up mount namespacing: /b: No such file or directory"}, {"(a)", "a.service: Failed at step NAMESPACE spawning /a: No such file or directory"}}...)}, opens, "Failed to set up mount namespacing: /b", "systemctl cat a.service"},
		"PID 1 is slow":       {startup{load: "loaded", active: "failed", result: "exit-code", log: records([][2]string{{"(a)", "a.service: Failed to determine user credentials: No such process"}, {"systemd", "Starting a.service..."}, {"(a)", "a.service: Failed at step USER spawning /a: No such process"}}...)}, opens, "Failed to determine user credentials: No such process", "systemctl cat a.service"},
		"not systemd's words": {startup{load: "loaded", active: "failed", result: "exit-code", mainCode: 1, mainStatus: 1, log: records([][2]string{{"a", "a.service: Failed at step X"}}...)}, opens, "", ""},
		"a status of its own": {startup{load: "loaded", active: "failed", result: "signal", mainCode: 2, mainStatus: 217}, opens, "", ""},
		"wrong secret":        {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 2, log: records([][2]string{{"step-ca", "error decrypting key: x509: decryption password incorrect"}}...)}, opens, "a wrong one: error decrypting key", "bootseal encrypt --unit=a.service NAME"},
		"anything else":       {startup{load: "loaded", active: "failed", result: "exit-code", mainStatus: 2, log: records([][2]string{{"app", "listen: address in use"}}...)}, func() error { return errors.New("no policy") }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			test.startup.unit = "a.service"
			e := test.startup.explain(test.open)
			if (e.cause == "") != (test.cause == "") || !strings.Contains(e.cause, test.cause) || !strings.Contains(e.remedy, test.remedy) {
				t.Errorf("got %q, %q; want %q, %q", e.cause, e.remedy, test.cause, test.remedy)
			}
		})
	}
}

// records are pairs of identifier and message.
func records(pairs ...[2]string) (all []manager.Record) {
	for _, p := range pairs {
		all = append(all, manager.Record{Identifier: p[0], Message: p[1]})
	}
	return all
}

// systemd.unit(5): of the conditions with "|", one is enough.
func TestChecksOf(t *testing.T) {
	check := func(kind string, trigger, negate bool, param string, result int32) []any {
		return []any{kind, trigger, negate, param, result}
	}
	for name, test := range map[string]struct {
		checks [][]any
		want   string
	}{
		"met":          {[][]any{check("ConditionPathExists", false, false, "/a", 1)}, ""},
		"not met":      {[][]any{check("ConditionPathExists", false, true, "/a", -1)}, "ConditionPathExists=!/a"},
		"not tried":    {[][]any{check("ConditionPathExists", false, false, "/a", 0)}, ""},
		"one of two":   {[][]any{check("ConditionPathExists", true, false, "/a", -1), check("ConditionPathExists", true, false, "/b", 1)}, ""},
		"none of two":  {[][]any{check("ConditionPathExists", true, false, "/a", -1), check("ConditionPathExists", true, false, "/b", -1)}, "ConditionPathExists=/b"},
		"another one":  {[][]any{check("ConditionUser", false, false, "x", -1), check("ConditionPathExists", true, false, "/b", 0)}, "ConditionUser=x"},
		"not a check":  {[][]any{{"a"}}, ""},
		"strange type": {nil, ""},
	} {
		if got := failed(checksOf(test.checks)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
	if failed(checksOf("text")) != "" {
		t.Error("a text is taken for checks")
	}
}
