package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

// tableFlags adds the options of verbs that print a table.
func tableFlags(flags *pflag.FlagSet) *table.Format {
	f := &table.Format{Color: table.Colored(os.Stdout)}
	flags.StringVar(&f.JSON, "json", "off", "")
	flags.BoolVar(&f.NoLegend, "no-legend", false, "")
	return f
}

// parseTableFlags is parseFlags for these verbs.
func parseTableFlags(flags *pflag.FlagSet, f *table.Format, args []string) error {
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	if !slices.Contains(table.Formats, f.JSON) {
		return usagef("--json=%s: expected short, pretty or off", f.JSON)
	}
	return nil
}

// inspect tells what can be known of credentials without opening them.
func inspect(args []string) error {
	flags := flagSet("inspect")
	format := tableFlags(flags)
	h := &holding{}
	defer h.close()
	flags.StringVar(&h.device, "tpm2-device", "", "")
	flags.StringVar(&h.signature, "tpm2-signature", "", "")
	if err := parseTableFlags(flags, format, args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return usagef("inspect: too few arguments; expected FILE... or UNIT")
	}
	var all []inspected
	var failed error
	for _, arg := range flags.Args() {
		found, err := find(arg)
		if err != nil && failed != nil {
			fmt.Fprintf(os.Stderr, "bootseal: %v\n", failed)
		}
		if err != nil {
			failed = err
		}
		all = append(all, found...)
	}
	t := &table.Table{Vertical: true, Columns: []string{
		"Path", "Type", "Since", "PCRs", "Bank", "Policy Digest", "Primary Key", "Signed PCRs", "Public Key", "Pinned SRK",
		"Size", "Blob Size", "TPM Blob Size", "Policy Now", "SRK Now",
	}}
	for _, s := range all {
		t.Add(h.row(s)...)
	}
	if len(all) > 0 {
		if err := t.Print(os.Stdout, *format); err != nil {
			return err
		}
	}
	return failed
}

// inspected is a credential, with sizes in bytes.
type inspected struct {
	*sealed
	text, data int // of the file, and of what it encodes
}

// find reads a file, or if there is none of that name all blobs of a unit. It
// returns those that can be read beside the error for the others.
func find(arg string) ([]inspected, error) {
	name := unitName(arg)
	_, err := os.Stat(arg)
	if arg == "-" || err == nil || strings.Contains(arg, "/") || policy.CheckUnit(name) != nil {
		s, err := readInspected(arg)
		if err != nil {
			return nil, err
		}
		return []inspected{s}, nil
	}
	p, err := policy.ForUnit(root.Dir("/"), name)
	if err != nil {
		return nil, fmt.Errorf("there is no file %s, and %w", arg, err)
	}
	var all []inspected
	var errs []error
	for _, c := range p.Credentials {
		s, err := readInspected(c.Source)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, s)
	}
	return all, errors.Join(errs...)
}

func readInspected(file string) (i inspected, err error) {
	text, err := readInput(file, credential.MaxText)
	if errors.Is(err, errNoInput) {
		return i, fmt.Errorf("%s: %w", file, errNoBlob)
	}
	if err != nil {
		return i, err
	}
	if i.sealed, err = parseSealed(text, file, ""); err != nil {
		return i, err
	}
	data, err := credential.DecodeText(text)
	return inspected{i.sealed, len(text), len(data)}, err
}

// holding asks the TPM whether policies hold, and opens it when first needed.
type holding struct {
	device    string
	signature string // file with PCR signatures; "" is systemd's search
	tpm       transport.TPMCloser
	err       error
}

func (h *holding) close() {
	if h.tpm != nil {
		h.tpm.Close()
	}
}

func (h *holding) open() (transport.TPM, error) {
	if h.tpm == nil && h.err == nil {
		h.tpm, h.err = tpmdevice.Open(h.device)
	}
	if h.err != nil {
		return nil, h.err
	}
	return tpm.Retry(h.tpm), nil
}

// holds is tpm.Holds.
func (h *holding) holds(s *sealed) error {
	b := s.blob
	t, err := h.open()
	if err != nil {
		return err
	}
	var sigs *tpm.Signatures
	if b.Type.HasPublicKey() {
		if sigs, err = signatures(h.signature); err != nil {
			return err
		}
	}
	return s.nameMoved(tpm.Holds(t, b, sigs))
}

func (h *holding) row(s inspected) []table.Cell {
	row := make([]table.Cell, 15)
	b := s.blob
	row[0] = table.Text(s.file)
	row[1] = table.Text(b.Type.String())
	row[2] = table.Cell{Value: b.Since(), Text: fmt.Sprintf("systemd %d", b.Since())}
	row[10] = bytesCell(s.text)
	row[11] = bytesCell(s.data)
	if b.TPM2 == nil {
		return row
	}
	row[3] = pcrCell(b.TPM2.PCRMask)
	if b.TPM2.PCRMask != 0 || b.PublicKey != nil {
		row[4] = table.Text(tpm.BankName(b.TPM2.PCRBank))
	}
	row[5] = table.Text(hex.EncodeToString(b.TPM2.PolicyHash))
	row[6] = table.Text(map[uint16]string{credential.AlgECC: "ecc", credential.AlgRSA: "rsa"}[b.TPM2.PrimaryAlg])
	if b.PublicKey != nil {
		row[7] = pcrCell(b.PublicKey.PCRMask)
		if print, err := tpm.Fingerprint(b.PublicKey); err != nil {
			row[8] = table.Cell{Value: "invalid", Text: err.Error(), Color: table.Red}
		} else {
			row[8] = table.Cell{Value: hex.EncodeToString(print), Text: "SHA256:" + hex.EncodeToString(print)}
		}
	}
	row[12] = bytesCell(len(b.TPM2.Blob))
	row[13] = policyCell(h.holds(s.sealed))
	if b.SRK != nil {
		row[9] = table.Text(hex.EncodeToString(b.SRK.Name()))
		row[14] = h.srkCell(b)
	}
	return row
}

func bytesCell(n int) table.Cell {
	return table.Cell{Value: n, Text: fmt.Sprintf("%d bytes", n)}
}

func pcrCell(mask uint64) table.Cell {
	pcrs := credential.PCRs(mask)
	if len(pcrs) == 0 {
		return table.Cell{Value: []int{}, Text: "none"}
	}
	return table.Cell{Value: pcrs, Text: joinPCRs(pcrs)}
}

func joinPCRs(pcrs []int) string {
	words := make([]string, len(pcrs))
	for i, pcr := range pcrs {
		words[i] = strconv.Itoa(pcr)
	}
	return strings.Join(words, "+")
}

// policyCell is the answer of holds.
func policyCell(err error) table.Cell {
	var differs *tpm.PolicyError
	switch {
	case err == nil:
		return table.Cell{Value: "holds", Color: table.Green}
	case errors.As(err, &differs):
		return table.Cell{Value: "fails", Text: "fails: " + differs.Reason, Color: table.Red}
	case errors.Is(err, tpm.ErrNoSignature), errors.Is(err, tpm.ErrSignature), errors.Is(err, tpm.ErrTPMBlob), errors.Is(err, tpm.ErrPublicKey):
		return table.Cell{Value: "fails", Text: "fails: " + err.Error(), Color: table.Red}
	}
	return unknownCell(err)
}

func (h *holding) srkCell(b *credential.Blob) table.Cell {
	t, err := h.open()
	if err != nil {
		return unknownCell(err)
	}
	switch here, err := tpm.PinnedHere(t, b); {
	case err != nil:
		return unknownCell(err)
	case here:
		return table.Cell{Value: "same", Text: "this TPM's", Color: table.Green}
	}
	return table.Cell{Value: "other", Text: "another TPM's, or this one has been cleared since", Color: table.Red}
}

func unknownCell(err error) table.Cell {
	text := err.Error()
	if errors.Is(err, fs.ErrPermission) {
		text = "no permission to use the TPM"
	}
	return table.Cell{Value: "unknown", Text: "unknown: " + text, Color: table.Yellow}
}
