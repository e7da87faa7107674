package tpmdevice

import (
	"github.com/bootseal/bootseal/internal/root/roottest"
	"slices"
	"testing"
)

func TestTPMDevices(t *testing.T) {
	const device = "/sys/devices/LNXSYSTM:00/LNXSYBUS:00/MSFT0101:00"
	dir := roottest.Tree(t, map[string]string{
		"/sys/class/tpmrm/tpmrm0":         "-> ../../devices/LNXSYSTM:00/LNXSYBUS:00/MSFT0101:00/tpmrm/tpmrm0",
		device + "/tpmrm/tpmrm0/dev":      "253:65536",
		device + "/tpmrm/tpmrm0/device":   "-> ../../../MSFT0101:00",
		device + "/driver":                "-> ../../../../bus/acpi/drivers/tpm_crb",
		"/sys/bus/acpi/drivers/tpm_crb/x": "",
		"/sys/class/tpmrm/tpmrm1/dev":     "253:65537",
	})
	want := []Device{{"/dev/tpmrm0", "MSFT0101:00", "tpm_crb"}, {"/dev/tpmrm1", "", ""}}
	if got, err := List(dir); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := List(roottest.Tree(t, nil)); err != nil || len(got) != 0 {
		t.Errorf("none: %v, %v", got, err)
	}
}
