// Package inspect tells what can be known of credentials without opening them, and
// whether the TPM here would.
package inspect

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/stdio"
	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

// Verb is what an operator calls.
func Verb() *cli.Verb {
	v := &cli.Verb{
		Name: "inspect", Forms: cli.Takes("FILE...|UNIT...", "Tell what credentials are bound to"),
		Details: "Without opening them.",
		Flags:   cli.NewFlags("inspect"), Least: 1, Most: cli.Unlimited,
	}
	format, device, signature := &options.Table{}, &options.Device{}, &options.Signature{}
	v.Run = func(args []string) error {
		t := &TPM{Device: device.Name, Signature: signature.File}
		defer t.Close()
		return t.show(args, format.Format)
	}
	return options.Bind(v, options.Dialect{}, device, signature, format)
}

// show prints a table of the credentials that the arguments name. Those that cannot
// be read do not keep it from showing the others.
func (t *TPM) show(args []string, format table.Format) error {
	var all []inspected
	var failed error
	for _, arg := range args {
		found, err := collect(arg)
		if err != nil && failed != nil {
			report.Error(failed)
		}
		if err != nil {
			failed = err
		}
		all = append(all, found...)
	}
	rows := &table.Table{Vertical: true, Columns: []string{
		"Path", "Type", "Since", "PCRs", "Bank", "Policy Digest", "Primary Key", "Signed PCRs", "Public Key", "Pinned SRK",
		"Size", "Blob Size", "TPM Blob Size", "Policy Now", "SRK Now",
	}}
	for _, s := range all {
		rows.Add(t.row(s)...)
	}
	if len(all) > 0 {
		if err := rows.Print(os.Stdout, format); err != nil {
			return err
		}
	}
	return failed
}

// inspected is a credential, with sizes in bytes.
type inspected struct {
	*sealing.File
	text, data int // of the file, and of what it encodes
}

// collect reads a file, or if there is none of that name all blobs of a unit. It
// returns those that can be read beside the error for the others.
func collect(arg string) ([]inspected, error) {
	name := policy.UnitName(arg)
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
	text, err := stdio.Read(file, credential.MaxText)
	if errors.Is(err, stdio.ErrNotFound) {
		return i, fmt.Errorf("%s: %w", file, sealing.ErrNoBlob)
	}
	if err != nil {
		return i, err
	}
	if i.File, err = sealing.Parse(text, file, ""); err != nil {
		return i, err
	}
	data, err := credential.DecodeText(text)
	return inspected{i.File, len(text), len(data)}, err
}

// TPM answers questions about credentials, and is opened when first needed.
type TPM struct {
	Device    string // as --tpm2-device= has it
	Signature string // file with PCR signatures; "" is systemd's search

	tpm transport.TPMCloser
	err error
}

// Close ends the connection, if there is one.
func (t *TPM) Close() {
	if t.tpm != nil {
		t.tpm.Close()
	}
}

// Open opens the TPM, once.
func (t *TPM) Open() (transport.TPM, error) {
	if t.tpm == nil && t.err == nil {
		t.tpm, t.err = tpmdevice.Open(t.Device)
	}
	if t.err != nil {
		return nil, t.err
	}
	return tpm.Retry(t.tpm), nil
}

// PolicyNow tells whether the policy of a credential would be met: nil, or why not.
func (t *TPM) PolicyNow(s *sealing.File) error {
	b := s.Blob
	conn, err := t.Open()
	if err != nil {
		return err
	}
	var sigs *tpm.Signatures
	if b.Type.HasPublicKey() {
		if sigs, err = sealing.Signatures(t.Signature); err != nil {
			return err
		}
	}
	return s.NameChangedPCRs(tpm.PolicyMet(conn, b, sigs))
}

func (t *TPM) row(s inspected) []table.Cell {
	row := make([]table.Cell, 15)
	b := s.Blob
	row[0] = table.Text(s.Path)
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
	row[13] = policyCell(t.PolicyNow(s.File))
	if b.SRK != nil {
		row[9] = table.Text(hex.EncodeToString(b.SRK.Name()))
		row[14] = t.srkCell(b)
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
	return table.Cell{Value: pcrs, Text: sealing.JoinPCRs(pcrs)}
}

// policyCell is the answer of PolicyNow.
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

func (t *TPM) srkCell(b *credential.Blob) table.Cell {
	conn, err := t.Open()
	if err != nil {
		return unknownCell(err)
	}
	switch here, err := tpm.PinnedHere(conn, b); {
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
