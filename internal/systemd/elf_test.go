package systemd

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestELF compares with debug/elf, on the libraries and programs that are here.
func TestELF(t *testing.T) {
	var names []string
	for _, pattern := range []string{"/usr/lib/systemd/systemd*", "/usr/lib/*/systemd/*.so", "/usr/lib/*/libtss2-*.so.0", "/usr/bin/[a-c]*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	count := 0
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		theirs, err := elf.NewFile(bytes.NewReader(data))
		ours, err2 := readELF(bytes.NewReader(data))
		if (err == nil) != (err2 == nil) {
			t.Errorf("%s: %v, but debug/elf %v", name, err2, err)
		}
		if err != nil || err2 != nil {
			continue
		}
		count++
		for _, tag := range []elf.DynTag{elf.DT_NEEDED, elf.DT_RUNPATH} {
			want, err := theirs.DynString(tag)
			got, err2 := ours.dynamic(uint64(tag))
			if err != nil || err2 != nil || !slices.Equal(got, want) {
				t.Errorf("%s, %v: %q, %v; want %q, %v", name, tag, got, err2, want, err)
			}
		}
		s, ok := ours.section(".rodata")
		if want := theirs.Section(".rodata"); ok != (want != nil) || ok && (s.offset != want.Offset || s.size != want.Size) {
			t.Errorf("%s: .rodata %+v", name, s)
		}
	}
	if count < 10 {
		t.Errorf("only %d files", count)
	}
}

// TestELF32 reads a file of 32 bits in the other byte order.
func TestELF32(t *testing.T) {
	const dynstr = "\x00libsystemd-shared-247.so\x00"
	const names = "\x00.dynamic\x00.dynstr\x00.rodata\x00"
	var body bytes.Buffer
	sections := []elf.Section32{{}}
	add := func(name, kind, link int, content any) {
		s := elf.Section32{Name: uint32(name), Type: uint32(kind), Link: uint32(link), Off: uint32(52 + body.Len())}
		if err := binary.Write(&body, binary.BigEndian, content); err != nil {
			t.Fatal(err)
		}
		s.Size = uint32(52+body.Len()) - s.Off
		sections = append(sections, s)
	}
	add(1, int(elf.SHT_DYNAMIC), 2, []elf.Dyn32{{Tag: int32(elf.DT_NEEDED), Val: 1}, {}})
	add(10, int(elf.SHT_STRTAB), 0, []byte(dynstr))
	add(18, int(elf.SHT_PROGBITS), 0, []byte("\x00+PAM +TPM2 +BZIP2\x00"))
	add(0, int(elf.SHT_STRTAB), 0, []byte(names))
	header := elf.Header32{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_PPC), Version: 1, Ehsize: 52,
		Shoff: uint32(52 + body.Len()), Shentsize: 40, Shnum: 5, Shstrndx: 4}
	copy(header.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS32), byte(elf.ELFDATA2MSB), 1}))
	var file bytes.Buffer
	for _, part := range []any{header, body.Bytes(), sections} {
		if err := binary.Write(&file, binary.BigEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	image, err := readELF(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if library, err := sharedLibrary(image); library != "libsystemd-shared-247.so" || err != nil {
		t.Errorf("%q, %v", library, err)
	}
	if yes, err := mentions(image, "+TPM2 "); !yes || err != nil {
		t.Errorf("TPM2: %v, %v", yes, err)
	}
}
