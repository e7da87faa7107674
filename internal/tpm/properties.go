package tpm

import (
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Properties are what a TPM says of itself (TCG TPM 2.0 part 2, section 6.13).
type Properties struct {
	Manufacturer   string // four characters at most, such as "IFX"
	Vendor         string // at most 16 characters
	Firmware       string // as "7.85.4555.0", in the manufacturer's own counting
	LockoutCounter uint32 // failed authorizations that still count
	MaxAuthFail    uint32 // at which the TPM locks itself
	InLockout      bool
	OwnerAuthSet   bool // the owner hierarchy has a password
	AESCFB         bool // needed to encrypt what crosses the bus
}

// ReadProperties asks the TPM. It needs no authorization.
func ReadProperties(t transport.TPM) (p Properties, err error) {
	c := &conn{t: t}
	defer func() { err = c.close(err) }()
	fixed, err := c.properties(tpm2.TPMPTManufacturer)
	if err != nil {
		return p, err
	}
	variable, err := c.properties(tpm2.TPMPTPermanent)
	if err != nil {
		return p, err
	}
	p.Manufacturer = characters(fixed[tpm2.TPMPTManufacturer])
	for _, part := range []tpm2.TPMPT{tpm2.TPMPTVendorString1, tpm2.TPMPTVendorString2, tpm2.TPMPTVendorString3, tpm2.TPMPTVendorString4} {
		p.Vendor += characters(fixed[part])
	}
	p.Vendor = strings.TrimSpace(p.Vendor)
	v1, v2 := fixed[tpm2.TPMPTFirmwareVersion1], fixed[tpm2.TPMPTFirmwareVersion2]
	p.Firmware = fmt.Sprintf("%d.%d.%d.%d", v1>>16, v1&0xFFFF, v2>>16, v2&0xFFFF)
	p.LockoutCounter, p.MaxAuthFail = variable[tpm2.TPMPTLockoutCounter], variable[tpm2.TPMPTMaxAuthFail]
	// TPMA_PERMANENT: bit 0 ownerAuthSet, bit 9 inLockout.
	p.OwnerAuthSet, p.InLockout = variable[tpm2.TPMPTPermanent]&1 != 0, variable[tpm2.TPMPTPermanent]&(1<<9) != 0
	aes, err := c.has(tpm2.TPMAlgAES)
	if err != nil {
		return p, err
	}
	cfb, err := c.has(tpm2.TPMAlgCFB)
	p.AESCFB = aes && cfb
	return p, err
}

// properties reads those from first on.
func (c *conn) properties(first tpm2.TPMPT) (map[tpm2.TPMPT]uint32, error) {
	const most = 64
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: most}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCGetCapability, err)
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, fmt.Errorf("%w: TPM2_GetCapability: %w", ErrBadReply, err)
	}
	values := make(map[tpm2.TPMPT]uint32)
	for _, property := range list.TPMProperty {
		values[property.Property] = property.Value
	}
	return values, nil
}

func (c *conn) has(alg tpm2.TPMAlgID) (bool, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapAlgs, Property: uint32(alg), PropertyCount: 1}.Execute(c)
	if err != nil {
		return false, classify(tpm2.TPMCCGetCapability, err)
	}
	list, err := rsp.CapabilityData.Data.Algorithms()
	if err != nil {
		return false, fmt.Errorf("%w: TPM2_GetCapability: %w", ErrBadReply, err)
	}
	return len(list.AlgProperties) == 1 && list.AlgProperties[0].Alg == alg, nil
}

// characters are the four ASCII characters that a property may hold.
func characters(value uint32) string {
	text := []byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)}
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(text)), " ")
}
