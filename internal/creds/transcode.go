package creds

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/options"
	"strings"
)

// errTranscode says that a secret is not in the encoding that it was said to have.
var errTranscode = failure.Other.New("the secret has another form", "leave out --transcode= and --json=")

// present returns the secret in the form that --transcode=, --json= and --newline=
// ask for, in a buffer of its own. The caller clears both.
func present(o *options.Output, secret []byte, terminal bool) ([]byte, error) {
	const spare = 2 // a newline and one more
	var out []byte
	switch {
	case o.Transcode == "base64":
		out = encodeBase64(secret)
	case o.Transcode == "unbase64":
		out = withoutBlanks(secret)
		n, err := base64.StdEncoding.Strict().Decode(out, out)
		if err != nil {
			clear(out)
			return nil, errors.Join(errTranscode, errors.New("--transcode=unbase64: expected Base64 text"))
		}
		out = out[:n]
	case o.Transcode == "hex":
		out = make([]byte, hex.EncodedLen(len(secret)), hex.EncodedLen(len(secret))+spare)
		hex.Encode(out, secret)
	case o.Transcode == "unhex":
		out = withoutBlanks(secret)
		n, err := hex.Decode(out, out)
		if err != nil {
			clear(out)
			return nil, errors.Join(errTranscode, errors.New("--transcode=unhex: expected pairs of hexadecimal digits"))
		}
		out = out[:n]
	case o.JSON != options.JSONOff:
		return formatJSON(secret, o.JSON == "pretty")
	default:
		out = append(make([]byte, 0, len(secret)+spare), secret...)
	}
	if o.Newline == "yes" || o.Newline == "auto" && terminal {
		if len(out) == 0 || out[len(out)-1] != '\n' {
			out = append(out, '\n')
		}
	}
	return out, nil
}

// encodeBase64 breaks lines after 79 characters, and leaves the last without an
// end.
func encodeBase64(secret []byte) []byte {
	const columns = 79
	n := base64.StdEncoding.EncodedLen(len(secret))
	text := make([]byte, n)
	defer clear(text)
	base64.StdEncoding.Encode(text, secret)
	out := make([]byte, 0, n+n/columns+2)
	for len(text) > columns {
		out = append(append(out, text[:columns]...), '\n')
		text = text[columns:]
	}
	return append(out, text...)
}

func withoutBlanks(secret []byte) []byte {
	out := make([]byte, 0, len(secret)+2)
	for _, c := range secret {
		if strings.IndexByte(" \t\r\n", c) < 0 {
			out = append(out, c)
		}
	}
	return out
}
