// Package systemdtest makes programs that look like a systemd, for tests.
package systemdtest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// Program returns an ELF file that needs the libraries, looks for them in
// runpath, and has rodata among its constants.
func Program(machine elf.Machine, runpath, rodata string, libraries ...string) []byte {
	dynstr := []byte{0}
	var dynamic []elf.Dyn64
	add := func(tag elf.DynTag, text string) {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(tag), Val: uint64(len(dynstr))})
		dynstr = append(dynstr, text+"\x00"...)
	}
	for _, library := range libraries {
		add(elf.DT_NEEDED, library)
	}
	add(elf.DT_RUNPATH, runpath)
	dynamic = append(dynamic, elf.Dyn64{})

	const names = "\x00.dynamic\x00.dynstr\x00.rodata\x00.shstrtab\x00"
	header := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Shentsize: 64, Shnum: 5, Shstrndx: 4,
	}
	copy(header.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}))
	var body bytes.Buffer
	section := func(name string, kind elf.SectionType, link, entry int, content any) elf.Section64 {
		s := elf.Section64{
			Name: uint32(strings.Index(names, name)), Type: uint32(kind), Link: uint32(link), Entsize: uint64(entry),
			Off: uint64(64 + body.Len()), Addralign: 1,
		}
		if err := binary.Write(&body, binary.LittleEndian, content); err != nil {
			panic(err)
		}
		s.Size = uint64(64 + body.Len() - int(s.Off))
		return s
	}
	sections := []elf.Section64{
		{},
		section(".dynamic", elf.SHT_DYNAMIC, 2, 16, dynamic),
		section(".dynstr", elf.SHT_STRTAB, 0, 0, dynstr),
		section(".rodata", elf.SHT_PROGBITS, 0, 0, []byte(rodata)),
		section(".shstrtab", elf.SHT_STRTAB, 0, 0, []byte(names)),
	}
	header.Shoff = uint64(64 + body.Len())
	var out bytes.Buffer
	binary.Write(&out, binary.LittleEndian, header)
	out.Write(body.Bytes())
	binary.Write(&out, binary.LittleEndian, sections)
	return out.Bytes()
}
