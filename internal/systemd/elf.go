package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// What is used of ELF, elf(5). debug/elf brings decompressors and debugging data with it
// and reads more than is needed: it was 7 in 100 of what a run of the generator takes.
const (
	typeDynamic = 6  // SHT_DYNAMIC
	typeNoBits  = 8  // SHT_NOBITS
	tagNeeded   = 1  // DT_NEEDED
	tagRunpath  = 29 // DT_RUNPATH

	maxSections = 1024     // of libsystemd-shared there are 32
	maxStrings  = 16 << 20 // bytes of a section of names: 40 KiB
)

// errNotELF says that a file is not an ELF file that a loader would take.
var errNotELF = errors.New("not an ELF file")

// section is one of an ELF file.
type section struct {
	name         uint32 // offset in the section of names
	kind, link   uint32
	offset, size uint64
}

// image is an ELF file.
type image struct {
	file     io.ReaderAt
	order    binary.ByteOrder
	wide     bool // 64 bits
	sections []section
	names    []byte
}

// readELF reads the headers of an ELF file. It fails with errNotELF or as reading does.
func readELF(file io.ReaderAt) (*image, error) {
	var head [64]byte
	// One of 32 bits is shorter.
	if n, err := file.ReadAt(head[:], 0); err != nil && (err != io.EOF || n < 52) {
		if err == io.EOF {
			err = errNotELF
		}
		return nil, err
	}
	i := &image{file: file, wide: head[4] == 2}
	switch {
	case string(head[:4]) != "\x7fELF" || head[4] != 1 && head[4] != 2:
		return nil, errNotELF
	case head[5] == 1:
		i.order = binary.LittleEndian
	case head[5] == 2:
		i.order = binary.BigEndian
	default:
		return nil, errNotELF
	}
	offset, counts, entry := uint64(i.order.Uint32(head[32:])), head[46:], 40
	if i.wide {
		offset, counts, entry = i.order.Uint64(head[40:]), head[58:], 64
	}
	size, count, names := int(i.order.Uint16(counts)), int(i.order.Uint16(counts[2:])), int(i.order.Uint16(counts[4:]))
	if size != entry || count == 0 || count > maxSections || names >= count {
		return nil, fmt.Errorf("%w: %d section headers of %d bytes, expected up to %d of %d", errNotELF, count, size, maxSections, entry)
	}
	table, err := i.read(section{offset: offset, size: uint64(count * entry)}, maxSections*64)
	if err != nil {
		return nil, err
	}
	for ; len(table) > 0; table = table[entry:] {
		s := section{name: i.order.Uint32(table), kind: i.order.Uint32(table[4:])}
		if i.wide {
			s.offset, s.size, s.link = i.order.Uint64(table[24:]), i.order.Uint64(table[32:]), i.order.Uint32(table[40:])
		} else {
			s.offset, s.size, s.link = uint64(i.order.Uint32(table[16:])), uint64(i.order.Uint32(table[20:])), i.order.Uint32(table[24:])
		}
		i.sections = append(i.sections, s)
	}
	i.names, err = i.read(i.sections[names], maxStrings)
	return i, err
}

// read reads a section of at most limit bytes.
func (i *image) read(s section, limit uint64) ([]byte, error) {
	if s.kind == typeNoBits || s.size > limit || s.offset > 1<<62 {
		return nil, fmt.Errorf("%w: a section of %d bytes at %d, expected at most %d", errNotELF, s.size, s.offset, limit)
	}
	data := make([]byte, s.size)
	if n, err := i.file.ReadAt(data, int64(s.offset)); n < len(data) {
		if err == io.EOF {
			err = fmt.Errorf("%w: it is cut short", errNotELF)
		}
		return nil, err
	}
	return data, nil
}

// section finds the first section of that name.
func (i *image) section(name string) (section, bool) {
	for _, s := range i.sections {
		if stringAt(i.names, s.name) == name {
			return s, true
		}
	}
	return section{}, false
}

// dynamic returns the texts that the dynamic section has under a tag.
func (i *image) dynamic(tag uint64) (all []string, err error) {
	for _, s := range i.sections {
		if s.kind != typeDynamic {
			continue
		}
		if int(s.link) >= len(i.sections) {
			return nil, errNotELF
		}
		entries, err := i.read(s, maxStrings)
		if err != nil {
			return nil, err
		}
		texts, err := i.read(i.sections[s.link], maxStrings)
		if err != nil {
			return nil, err
		}
		for entry := 8; ; {
			var key, value uint64
			if i.wide {
				entry = 16
			}
			if len(entries) < entry {
				return all, nil
			}
			if i.wide {
				key, value = i.order.Uint64(entries), i.order.Uint64(entries[8:])
			} else {
				key, value = uint64(i.order.Uint32(entries)), uint64(i.order.Uint32(entries[4:]))
			}
			if key == tag && value < uint64(len(texts)) {
				all = append(all, stringAt(texts, uint32(value)))
			}
			entries = entries[entry:]
		}
	}
	return nil, nil
}
