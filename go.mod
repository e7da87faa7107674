module github.com/bootseal/bootseal

go 1.24.0

require (
	github.com/BurntSushi/toml v1.6.0
	github.com/coreos/go-systemd/v22 v22.7.0
	github.com/cyphar/filepath-securejoin v0.6.1
	github.com/google/go-tpm v0.9.8
	github.com/rogpeppe/go-internal v1.14.1
	github.com/spf13/pflag v1.0.10
	golang.org/x/sys v0.41.0
	golang.org/x/term v0.40.0
)

require (
	github.com/godbus/dbus/v5 v5.1.0 // indirect
	golang.org/x/tools v0.26.0 // indirect
)
