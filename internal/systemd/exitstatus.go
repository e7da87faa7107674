package systemd

// ExitCredentials is the status of a process whose credentials could not be set up,
// EXIT_CREDENTIALS of systemd.exec(5), as $EXIT_STATUS has it.
const ExitCredentials = "243"

// IsExitCredentials tells whether a word of SuccessExitStatus= is that status, which may
// be written by its name, systemd.service(5).
func IsExitCredentials(word string) bool { return word == ExitCredentials || word == "CREDENTIALS" }
