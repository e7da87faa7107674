package sealing

import (
	"strconv"
	"strings"

	"github.com/bootseal/bootseal/internal/report"
)

// pcrNames are those of systemd-creds(1) and the UAPI group's PCR registry.
var pcrNames = map[string]uint64{
	"platform-code": 0, "platform-config": 1, "external-code": 2, "external-config": 3,
	"boot-loader-code": 4, "boot-loader-config": 5, "host-platform": 6, "secure-boot-policy": 7,
	"kernel-initrd": 9, "ima": 10, "kernel-boot": 11, "kernel-config": 12, "sysexts": 13,
	"shim-policy": 14, "system-identity": 15, "debug": 16, "application-support": 23,
}

// ParsePCRs reads the list of an option, such as 7+14 or 7,shim-policy; an empty
// one is none.
func ParsePCRs(option, list string) (mask uint64, err error) {
	for _, word := range strings.FieldsFunc(list, func(r rune) bool { return r == '+' || r == ',' }) {
		n, ok := pcrNames[word]
		if !ok {
			n, err = strconv.ParseUint(word, 0, 8)
		}
		if err != nil || n > 23 || strings.Contains(word, "_") {
			return 0, report.Usagef("--%s=%s: %q is neither the number of a PCR, 0 to 23, nor the name of one", option, list, word)
		}
		if mask&(1<<n) != 0 {
			return 0, report.Usagef("--%s=%s: PCR %d is there twice", option, list, n)
		}
		mask |= 1 << n
	}
	return mask, nil
}

// JoinPCRs writes a list of PCRs as --tpm2-pcrs= takes it.
func JoinPCRs(pcrs []int) string {
	words := make([]string, len(pcrs))
	for i, pcr := range pcrs {
		words[i] = strconv.Itoa(pcr)
	}
	return strings.Join(words, "+")
}
