package creds

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// formatJSON returns a JSON text the way systemd prints it: on one line, or
// indented by tabs with blanks around colons; numbers that are no integers of 64
// bits in scientific notation; no escapes but the necessary ones. Members stay in
// their order. It is not left to encoding/json because the text is a secret, of
// which that would leave copies in memory.
func formatJSON(text []byte, pretty bool) ([]byte, error) {
	if !utf8.Valid(text) || !json.Valid(text) {
		return nil, fmt.Errorf("%w: --json=: expected JSON", errTranscode)
	}
	w := jsonWriter{in: text, pretty: pretty}
	// Numbers become longer, and indentation adds to everything: measure first.
	w.value(0)
	w.out = make([]byte, 0, w.size+1)
	w.in, w.size = text, 0
	w.value(0)
	if w.err != nil {
		clear(w.out[:cap(w.out)])
		return nil, fmt.Errorf("%w: --json=: %w", errTranscode, w.err)
	}
	return append(w.out, '\n'), nil
}

// jsonWriter reads valid JSON from in. While out is nil it only counts.
type jsonWriter struct {
	in     []byte
	out    []byte
	size   int
	pretty bool
	err    error
}

func (w *jsonWriter) put(b ...byte) {
	w.size += len(b)
	if w.out != nil {
		w.out = append(w.out, b...)
	}
}

// next skips blanks and returns the byte behind them.
func (w *jsonWriter) next() byte {
	for {
		switch w.in[0] {
		case ' ', '\t', '\r', '\n':
			w.in = w.in[1:]
		default:
			return w.in[0]
		}
	}
}

func (w *jsonWriter) value(depth int) {
	switch c := w.next(); c {
	case '{', '[':
		w.container(c, depth)
	case '"':
		w.text()
	case 't', 'f', 'n':
		n := len("true")
		if c == 'f' {
			n = len("false")
		}
		w.put(w.in[:n]...)
		w.in = w.in[n:]
	default:
		w.number()
	}
}

func (w *jsonWriter) container(open byte, depth int) {
	end := open + 2 // "[" and "]", "{" and "}"
	w.put(open)
	w.in = w.in[1:]
	empty := w.next() == end
	for first := true; w.next() != end; first = false {
		if !first {
			w.in = w.in[1:] // a comma
			w.put(',')
		}
		w.line(depth + 1)
		if open == '{' {
			w.next()
			w.text()
			w.next()
			w.in = w.in[1:] // a colon
			if w.pretty {
				w.put(' ', ':', ' ')
			} else {
				w.put(':')
			}
		}
		w.value(depth + 1)
	}
	w.in = w.in[1:]
	if !empty {
		w.line(depth)
	}
	w.put(end)
}

func (w *jsonWriter) line(depth int) {
	if !w.pretty {
		return
	}
	w.put('\n')
	for range depth {
		w.put('\t')
	}
}

func (w *jsonWriter) number() {
	end := 0
	for end < len(w.in) && (w.in[end] >= '0' && w.in[end] <= '9' || w.in[end] == '-' || w.in[end] == '+' || w.in[end] == '.' || w.in[end] == 'e' || w.in[end] == 'E') {
		end++
	}
	digits := string(w.in[:end])
	w.in = w.in[end:]
	var buf [40]byte
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		w.put(strconv.AppendInt(buf[:0], n, 10)...)
	} else if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
		w.put(strconv.AppendUint(buf[:0], n, 10)...)
	} else if f, _ := strconv.ParseFloat(digits, 64); math.IsInf(f, 0) {
		w.put([]byte("null")...)
	} else {
		w.put(strconv.AppendFloat(buf[:0], f, 'e', 21, 64)...)
	}
}

func (w *jsonWriter) text() {
	w.put('"')
	w.in = w.in[1:]
	for w.in[0] != '"' {
		if w.in[0] != '\\' {
			w.put(w.in[0])
			w.in = w.in[1:]
			continue
		}
		c := w.in[1]
		w.in = w.in[2:]
		switch c {
		case 'b', 'f', 'n', 'r', 't', '"', '\\':
			w.put('\\', c)
		case 'u':
			w.unicode()
		default: // a slash
			w.put(c)
		}
	}
	w.in = w.in[1:]
	w.put('"')
}

// unicode writes the character of an escape whose "\u" has been read.
func (w *jsonWriter) unicode() {
	r := w.hex()
	if utf16.IsSurrogate(r) {
		if len(w.in) < 6 || w.in[0] != '\\' || w.in[1] != 'u' {
			w.err = errors.New("half a surrogate pair")
			return
		}
		w.in = w.in[2:]
		if r = utf16.DecodeRune(r, w.hex()); r == utf8.RuneError {
			w.err = errors.New("half a surrogate pair")
			return
		}
	}
	const short = "\b\f\n\r\t\"\\"
	for i := range len(short) {
		if r == rune(short[i]) {
			w.put('\\', `bfnrt"\`[i])
			return
		}
	}
	switch {
	case r == 0:
		w.err = errors.New("a NUL character")
	case r < ' ':
		var b [2]byte
		hex.Encode(b[:], []byte{byte(r)})
		w.put('\\', 'u', '0', '0', b[0], b[1])
	default:
		var b [utf8.UTFMax]byte
		w.put(b[:utf8.EncodeRune(b[:], r)]...)
	}
}

func (w *jsonWriter) hex() rune {
	var b [2]byte
	_, _ = hex.Decode(b[:], w.in[:4]) // JSON is valid, so these are digits
	w.in = w.in[4:]
	return rune(b[0])<<8 | rune(b[1])
}
