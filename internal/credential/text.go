package credential

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

// Size limits in bytes.
const (
	// MaxPayload is the largest payload systemd-creds encrypts. PID 1 loads
	// less: names and payloads of all credentials of a unit together must not
	// exceed this number.
	MaxPayload = 1 << 20
	// MaxBlob is the largest decoded credential that is read.
	MaxBlob = 1<<20 + 1<<17
	// MaxText is the largest Base64 text that is read. systemd 250 to 254 read
	// no more than MaxBlob bytes of text.
	MaxText = 3 * MaxBlob
)

const (
	textColumns   = 79
	prettyColumns = 69
)

// DecodeText decodes the Base64 text of a credential file as systemd 255 and
// newer do: both the standard and the URL-safe alphabet, with padding; space,
// tab, CR, LF and NUL are skipped anywhere. It fails with [ErrNotBase64] or
// [ErrTooLarge]. Text without any digits gives an empty blob, which [Parse]
// refuses as too short.
func DecodeText(text []byte) ([]byte, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("decoding credential: %w: %d bytes of text, at most %d are read", ErrTooLarge, len(text), MaxText)
	}
	digits := make([]byte, 0, len(text))
	for i, c := range text {
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == 0:
		case c == '-':
			digits = append(digits, '+')
		case c == '_':
			digits = append(digits, '/')
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '+', c == '/', c == '=':
			digits = append(digits, c)
		default:
			return nil, fmt.Errorf("decoding credential: %w: the byte at offset %d cannot be part of it (expected the output of systemd-creds encrypt)", ErrNotBase64, i)
		}
	}
	n, err := base64.StdEncoding.Strict().Decode(digits, digits)
	if err != nil {
		return nil, fmt.Errorf("decoding credential: %w: the text is cut short, or its padding is wrong", ErrNotBase64)
	}
	if n > MaxBlob {
		return nil, fmt.Errorf("decoding credential: %w: %d bytes, at most %d are read", ErrTooLarge, n, MaxBlob)
	}
	return digits[:n], nil
}

// EncodeText returns the text that systemd-creds(1) writes for a blob: lines of
// 79 characters, each ended by a newline.
func EncodeText(blob []byte) []byte { return encodeLines(blob, textColumns) }

func encodeLines(blob []byte, columns int) []byte {
	var out bytes.Buffer
	out.Grow(textLen(len(blob)))
	for _, line := range lines(blob, columns) {
		out.Write(line)
		out.WriteByte('\n')
	}
	return out.Bytes()
}

func textLen(blob int) int {
	n := base64.StdEncoding.EncodedLen(blob)
	return n + (n+textColumns-1)/textColumns
}

// EncodePretty returns the SetCredentialEncrypted= setting that "systemd-creds
// encrypt --pretty" (254 and newer) prints for a blob, or for a name of "" what it
// prints without one: the text alone, in lines of 69 characters. The name is
// C-escaped as there, but systemd reads names with quotes, backslashes or "%" back
// as something else: refuse them before.
func EncodePretty(name string, blob []byte) []byte {
	if name == "" {
		return encodeLines(blob, prettyColumns)
	}
	var out bytes.Buffer
	out.WriteString("SetCredentialEncrypted=")
	for i := range len(name) {
		if c := name[i]; c == '"' || c == '\'' || c == '\\' {
			out.WriteByte('\\')
		}
		out.WriteByte(name[i])
	}
	out.WriteByte(':')
	for _, line := range lines(blob, prettyColumns) {
		out.WriteString(" \\\n        ")
		out.Write(line)
	}
	out.WriteByte('\n')
	return out.Bytes()
}

func lines(blob []byte, columns int) [][]byte {
	text := base64.StdEncoding.AppendEncode(nil, blob)
	var all [][]byte
	for len(text) > columns {
		all = append(all, text[:columns])
		text = text[columns:]
	}
	return append(all, text)
}
