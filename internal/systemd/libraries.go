package systemd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/root"
)

// TPM2LibraryNames are the libraries of tpm2-tss that systemd loads when it
// first needs a TPM, in the order in which it does.
var TPM2LibraryNames = []string{"libtss2-esys.so.0", "libtss2-rc.so.0", "libtss2-mu.so.0"}

// maxCache bounds /etc/ld.so.cache: 100 KiB on a server, 1 MiB on a desktop.
const maxCache = 16 << 20

// TPM2Libraries returns those of TPM2LibraryNames that systemd would not find:
// neither in the loader's default directories nor where /etc/ld.so.cache says
// (ld.so(8)). A library for another processor than systemd's does not count.
func TPM2Libraries(dir root.Dir) (missing []string, err error) {
	exe, name, _, err := findSystemd(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for the TPM2 libraries: %w", err)
	}
	want, err := identify(dir, name)
	exe.Close()
	if err != nil {
		return nil, fmt.Errorf("looking for the TPM2 libraries: %w", err)
	}

	folders := []string{"/lib", "/usr/lib", "/lib64", "/usr/lib64"}
	for _, parent := range []string{"/lib", "/usr/lib"} {
		entries, err := dir.ReadDir(parent)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("looking for the TPM2 libraries: %w", err)
		}
		for _, e := range entries {
			// The multiarch triplets, such as x86_64-linux-gnu.
			if strings.Contains(e.Name(), "-linux-") {
				folders = append(folders, path.Join(parent, e.Name()))
			}
		}
	}
	cache, err := dir.ReadFile("/etc/ld.so.cache", maxCache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for the TPM2 libraries: %w", err)
	}

	for _, library := range TPM2LibraryNames {
		var places []string
		for _, folder := range folders {
			places = append(places, path.Join(folder, library))
		}
		places = append(places, lookUp(cache, library)...)
		if !anyMatches(dir, places, want) {
			missing = append(missing, library)
		}
	}
	return missing, nil
}

// identity is what the loader compares before it takes a library: the first
// bytes of the ELF header with class, byte order and machine.
type identity [20]byte

func identify(dir root.Dir, name string) (identity, error) {
	real, err := dir.Path(name)
	if err != nil {
		return identity{}, err
	}
	f, err := os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return identity{}, err
	}
	defer f.Close()
	var head identity
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return identity{}, err
	}
	// The operating system, its version and whether it is a program or a
	// library make no difference.
	clear(head[7:18])
	return head, nil
}

func anyMatches(dir root.Dir, places []string, want identity) bool {
	for _, place := range places {
		if got, err := identify(dir, place); err == nil && got == want {
			return true
		}
	}
	return false
}

// The cache of the dynamic loader, as glibc writes it: since 2.32 only the
// second of two forms, before that the first with the second behind it
// (glibc, sysdeps/generic/dl-cache.h). Numbers are in the machine's byte order.
const (
	oldCacheMagic = "ld.so-1.7.0\x00"
	oldHeaderSize = 16
	oldEntrySize  = 12

	cacheMagic      = "glibc-ld.so.cache1.1"
	cacheHeaderSize = 48
	cacheEntrySize  = 24

	// maxPlaces is far more than there are variants of one library.
	maxPlaces = 16
)

// lookUp returns the paths that an ld.so.cache has for library. Whatever is
// wrong with the cache, the loader would not find the library in it either.
func lookUp(cache []byte, library string) (paths []string) {
	if bytes.HasPrefix(cache, []byte(oldCacheMagic)) && len(cache) >= oldHeaderSize {
		end := oldHeaderSize + oldEntrySize*uint64(binary.NativeEndian.Uint32(cache[12:]))
		end = (end + 7) &^ 7
		if end > uint64(len(cache)) {
			return nil
		}
		cache = cache[end:]
	}
	if !bytes.HasPrefix(cache, []byte(cacheMagic)) || len(cache) < cacheHeaderSize {
		return nil
	}
	count := uint64(binary.NativeEndian.Uint32(cache[20:]))
	if count > uint64(len(cache)-cacheHeaderSize)/cacheEntrySize {
		return nil
	}
	for i := uint64(0); i < count && len(paths) < maxPlaces; i++ {
		entry := cache[cacheHeaderSize+i*cacheEntrySize:]
		if stringAt(cache, binary.NativeEndian.Uint32(entry[4:])) != library {
			continue
		}
		if place := stringAt(cache, binary.NativeEndian.Uint32(entry[8:])); path.IsAbs(place) {
			paths = append(paths, place)
		}
	}
	return paths
}

// stringAt returns the zero-terminated string at offset, "" if there is none.
func stringAt(data []byte, offset uint32) string {
	if uint64(offset) >= uint64(len(data)) {
		return ""
	}
	text := data[offset:]
	if len(text) > unix.PathMax {
		text = text[:unix.PathMax]
	}
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		return ""
	}
	return string(text[:end])
}
