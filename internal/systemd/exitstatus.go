package systemd

// ExitCredentials is the status of a process whose credentials could not be set up,
// EXIT_CREDENTIALS of systemd.exec(5), as $EXIT_STATUS has it.
const ExitCredentials = "243"
