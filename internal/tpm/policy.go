package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2"
)

const maxPCRs = 24

// banks in the order in which systemd 262 prefers them for sealing.
var banks = []struct {
	alg  uint16
	name string
	size int
}{
	{credential.AlgSHA256, "sha256", 32},
	{credential.AlgSHA384, "sha384", 48},
	{credential.AlgSHA512, "sha512", 64},
	{credential.AlgSHA1, "sha1", 20},
}

// bankName returns "sha256" and so on, as in PCR signature files.
func bankName(alg uint16) string {
	for _, b := range banks {
		if b.alg == alg {
			return b.name
		}
	}
	return fmt.Sprintf("0x%04x", alg)
}

func bankSize(alg uint16) int {
	for _, b := range banks {
		if b.alg == alg {
			return b.size
		}
	}
	return 0
}

func selection(bank uint16, mask uint64) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      tpm2.TPMIAlgHash(bank),
		PCRSelect: []byte{byte(mask), byte(mask >> 8), byte(mask >> 16)},
	}}}
}

// policyPCR extends a policy digest as TPM2_PolicyPCR does; values are those of
// the selected PCRs in ascending order.
func policyPCR(policy []byte, bank uint16, mask uint64, values [][]byte) []byte {
	inner := sha256.Sum256(bytes.Join(values, nil))
	h := sha256.New()
	h.Write(policy)
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCPolicyPCR)))
	h.Write(tpm2.Marshal(selection(bank, mask)))
	h.Write(inner[:])
	return h.Sum(nil)
}

// policyAuthorize is the policy digest after TPM2_PolicyAuthorize for a key.
func policyAuthorize(key tpm2.TPM2BName) []byte {
	h := sha256.New()
	h.Write(make([]byte, sha256.Size))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMCCPolicyAuthorize)))
	h.Write(key.Buffer)
	digest := sha256.Sum256(h.Sum(nil)) // with an empty policyRef
	return digest[:]
}

// readPCRs returns the values of the selected PCRs, nil for those that the TPM
// does not have in the bank.
func (c *conn) readPCRs(bank uint16, mask uint64) (map[int][]byte, error) {
	values := make(map[int][]byte)
	for mask != 0 { // a reply has eight values at most
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(bank, mask)}.Execute(c)
		if err != nil {
			return nil, classify(tpm2.TPMCCPCRRead, err)
		}
		var got uint64
		for _, s := range rsp.PCRSelectionOut.PCRSelections {
			if uint16(s.Hash) == bank {
				got |= maskOf(s.PCRSelect)
			}
		}
		read := credential.PCRs(got)
		if got&^mask != 0 || len(read) != len(rsp.PCRValues.Digests) {
			return nil, fmt.Errorf("%w: TPM2_PCR_Read: PCRs %v and %d values", ErrBadReply, read, len(rsp.PCRValues.Digests))
		}
		if got == 0 {
			break
		}
		for i, pcr := range read {
			v := rsp.PCRValues.Digests[i].Buffer
			if len(v) != bankSize(bank) {
				return nil, fmt.Errorf("%w: TPM2_PCR_Read: PCR %d of %d bytes, expected %d", ErrBadReply, pcr, len(v), bankSize(bank))
			}
			values[pcr] = v
		}
		mask &^= got
	}
	return values, nil
}

func maskOf(pcrSelect []byte) uint64 {
	var mask uint64
	for i, b := range pcrSelect {
		if i < maxPCRs/8 {
			mask |= uint64(b) << (8 * i)
		}
	}
	return mask
}

// chooseBank returns the bank to bind literal and signed PCRs to and their values:
// want, or, if that is 0, the first that has all 24 PCRs allocated and is alive,
// which is to say that not all of the PCRs are still all zeros or all ones. systemd
// would take a dead one if there is no other, and bind to nothing. Here that is
// for signed PCRs alone, whose present values do not matter: they may be measured
// only once the system is installed.
func (c *conn) chooseBank(want uint16, literal, signed uint64) (uint16, map[int][]byte, error) {
	mask := literal | signed
	if mask == 0 {
		return credential.AlgSHA256, nil, nil
	}
	candidates := []uint16{want}
	if want == 0 {
		var err error
		if candidates, err = c.allocatedBanks(); err != nil {
			return 0, nil, err
		}
	}
	var reasons []string
	for _, bank := range candidates {
		values, dead, err := c.readBank(bank, mask)
		if err != nil {
			return 0, nil, err
		}
		if dead == "" {
			return bank, values, nil
		}
		reasons = append(reasons, dead)
	}
	switch {
	case len(candidates) == 0:
		reasons = []string{"the TPM has no bank with all 24 PCRs allocated"}
	case literal == 0 && want == 0:
		return candidates[0], nil, nil
	}
	return 0, nil, fmt.Errorf("%w: %s", ErrBank, strings.Join(reasons, "; "))
}

// readBank reads PCRs; dead says why they are of no use to bind to.
func (c *conn) readBank(bank uint16, mask uint64) (values map[int][]byte, dead string, err error) {
	values, err = c.readPCRs(bank, mask)
	if err != nil {
		return nil, "", err
	}
	alive := false
	for _, pcr := range credential.PCRs(mask) {
		v, ok := values[pcr]
		if !ok {
			return nil, fmt.Sprintf("the TPM has no PCR %d in its %s bank", pcr, bankName(bank)), nil
		}
		if !bytes.Equal(v, bytes.Repeat([]byte{0}, len(v))) && !bytes.Equal(v, bytes.Repeat([]byte{0xFF}, len(v))) {
			alive = true
		}
	}
	if !alive {
		return nil, fmt.Sprintf("nothing was ever measured into %s of the %s bank", pcrList(credential.PCRs(mask)), bankName(bank)), nil
	}
	return values, "", nil
}

// allocatedBanks lists the banks that have all 24 PCRs, in the order of banks.
func (c *conn) allocatedBanks() ([]uint16, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCGetCapability, err)
	}
	pcrs, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("%w: TPM2_GetCapability: %w", ErrBadReply, err)
	}
	var allocated []uint16
	for _, b := range banks {
		if slices.ContainsFunc(pcrs.PCRSelections, func(s tpm2.TPMSPCRSelection) bool {
			return uint16(s.Hash) == b.alg && maskOf(s.PCRSelect) == 1<<maxPCRs-1
		}) {
			allocated = append(allocated, b.alg)
		}
	}
	return allocated, nil
}

// inOrder lists the values of the PCRs of mask in ascending order.
func inOrder(values map[int][]byte, mask uint64) [][]byte {
	var all [][]byte
	for _, pcr := range credential.PCRs(mask) {
		all = append(all, values[pcr])
	}
	return all
}

// mismatch explains why TPM2_Unseal answered TPM_RC_POLICY_FAIL: which PCRs are
// bound, and which of them could never match because this TPM does not have them.
func (c *conn) mismatch(h *credential.TPM2) error {
	if h.PCRMask == 0 {
		return damaged(h, "the public key in the header is not the one that the secret was sealed for: the credential is damaged")
	}
	e := &PolicyError{PCRs: credential.PCRs(h.PCRMask), Bank: h.PCRBank}
	values, err := c.readPCRs(h.PCRBank, h.PCRMask)
	if err == nil {
		for _, pcr := range e.PCRs {
			if values[pcr] == nil {
				e.Absent = append(e.Absent, pcr)
			}
		}
	}
	if len(e.Absent) > 0 {
		e.Reason = fmt.Sprintf("the secret is bound to %s of the %s bank, and this TPM has no %s there",
			pcrList(e.PCRs), bankName(e.Bank), pcrList(e.Absent))
	} else {
		which := "at least one of them has"
		if len(e.PCRs) == 1 {
			which = "that has"
		}
		e.Reason = fmt.Sprintf("the secret is bound to %s of the %s bank, and %s another value than when it was sealed",
			pcrList(e.PCRs), bankName(e.Bank), which)
		e.now = values
	}
	return e
}

// damaged is a mismatch that no PCR values can cure.
func damaged(h *credential.TPM2, reason string) error {
	return &PolicyError{PCRs: credential.PCRs(h.PCRMask), Bank: h.PCRBank, Reason: reason}
}

func pcrList(pcrs []int) string {
	if len(pcrs) == 0 {
		return "no PCR"
	}
	s := strings.Trim(strings.ReplaceAll(fmt.Sprint(pcrs), " ", ", "), "[]")
	if len(pcrs) == 1 {
		return "PCR " + s
	}
	return "PCRs " + s
}
