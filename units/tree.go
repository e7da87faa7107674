package units

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
)

// searchPath is where the system manager looks for units, systemd.unit(5), the
// most important folder first. The generators' own folders are missing: they
// are being filled while a generator runs.
var searchPath = []string{
	"/etc/systemd/system.control",
	"/run/systemd/system.control",
	"/run/systemd/transient",
	"/etc/systemd/system",
	"/etc/systemd/system.attached",
	"/run/systemd/system",
	"/run/systemd/system.attached",
	"/usr/local/lib/systemd/system",
	"/usr/lib/systemd/system",
}

// generated is where generators have written units, systemd.generator(7), the most
// important folder first.
var generated = []string{"/run/systemd/generator.early", "/run/systemd/generator", "/run/systemd/generator.late"}

// splitUsr is where distributions that keep /lib apart from /usr/lib have
// systemd and its units. It is looked at before /usr/lib.
const splitUsr = "/lib/systemd/system"

const (
	service = ".service"
	maxFile = 8 << 20 // bytes read of one unit file
)

// ErrNotFound says that no unit file of that name is installed.
var ErrNotFound = errors.New("no such unit file")

// ErrMasked says that the unit is masked: it cannot start.
var ErrMasked = errors.New("the unit is masked")

// ErrSyntax says that systemd would give up on a unit file.
var ErrSyntax = errors.New("malformed section header or line over 1 MiB")

// Tree is the unit files of a machine, listed once and read on demand.
type Tree struct {
	dir     root.Dir
	version int
	path    []string          // folders, the most important first
	files   map[string]string // unit name: path of the file that is in force
	alias   map[string]string // unit name: the unit that its file links to
	folders map[string]bool   // paths of drop-in folders
}

// ReadTree lists the unit folders below dir, for a systemd of that version.
func ReadTree(dir root.Dir, version int) (*Tree, error) {
	t := &Tree{dir, version, slices.Clone(searchPath), map[string]string{}, map[string]string{}, map[string]bool{}}
	if _, err := dir.Readlink("/", "lib"); err != nil {
		t.path = slices.Insert(t.path, len(t.path)-1, splitUsr)
	}
	for _, folder := range t.path {
		entries, err := dir.ReadDir(folder)
		if err != nil && !root.IsMissing(err) {
			return nil, fmt.Errorf("listing unit files: %w", err)
		}
		for _, entry := range entries {
			name := entry.Name()
			switch {
			case (strings.HasSuffix(name, service+".d") || name == "service.d") && (entry.IsDir() || t.mayLink(folder, name)):
				t.folders[folder+"/"+name] = true
			default:
				t.readFile(folder, entry)
			}
		}
	}
	return t, nil
}

// ReadTreeAfter is ReadTree for when the generators have run: it knows the units, too,
// that only they have made, but not their drop-ins, bootseal's own among them.
func ReadTreeAfter(dir root.Dir, version int) (*Tree, error) {
	t, err := ReadTree(dir, version)
	if err != nil {
		return nil, err
	}
	t.path = append(t.path, generated...)
	for _, folder := range generated {
		entries, err := dir.ReadDir(folder)
		if err != nil && !root.IsMissing(err) {
			return nil, fmt.Errorf("listing the units of generators: %w", err)
		}
		for _, entry := range entries {
			t.readFile(folder, entry)
		}
	}
	return t, nil
}

// readFile notes what a folder has, if it is a unit file, or an alias of one, and the
// first of that name.
func (t *Tree) readFile(folder string, entry fs.DirEntry) {
	name := entry.Name()
	if strings.HasSuffix(name, service) && t.files[name] == "" && (entry.Type()&fs.ModeSymlink == 0 || t.readAlias(folder, name)) {
		t.files[name] = folder + "/" + name
	}
}

// mayLink tells whether systemd follows folder/name, a link, as a drop-in
// folder. Since 250 it does so only where unit files of such names could be
// links, too.
func (t *Tree) mayLink(folder, name string) bool {
	target, err := t.readlink(folder, name)
	base := path.Base(target)
	return err == nil && (!systemd.ChecksDropInLinks.In(t.version) || base == name || strings.HasSuffix(base, service+".d") && !t.searches(path.Dir(target)))
}

// readlink returns the absolute path that the link folder/name names.
func (t *Tree) readlink(folder, name string) (string, error) {
	target, err := t.dir.Readlink(folder, name)
	if err == nil && !path.IsAbs(target) {
		target = path.Join(folder, target)
	}
	return target, err
}

// searches tells whether units are looked for in folder.
func (t *Tree) searches(folder string) bool {
	return folder == splitUsr || slices.Contains(t.path, folder)
}

// readAlias notes where folder/name links to, if that is another unit, and tells
// whether it may. A link that leads out of the search path is a linked unit file
// and keeps its name.
func (t *Tree) readAlias(folder, name string) bool {
	target, err := t.readlink(folder, name)
	if err != nil {
		return false
	}
	unit := path.Base(target)
	if unit == name || !t.searches(path.Dir(target)) {
		return true
	}
	_, of, isTemplate := strings.Cut(unit, "@")
	_, instance, isInstance := strings.Cut(name, "@")
	if !strings.HasSuffix(unit, service) || isTemplate != isInstance || isTemplate && of != service && of != instance {
		return false
	}
	t.alias[name] = unit
	return true
}

// id follows aliases from name to the unit that it means, an instance by way of
// its template. The file is the one that is in force then, "" if there is none.
func (t *Tree) id(name string) (id, file string) {
	for range len(t.alias) + 1 {
		next, ok := t.alias[name]
		if !ok && t.files[name] == "" {
			next, ok = t.alias[template(name)]
		}
		next = instantiate(next, name)
		if !ok || next == name {
			break
		}
		name = next
	}
	if file = t.files[name]; file == "" {
		file = t.files[template(name)]
	}
	return name, file
}

// names lists id and every alias of it.
func (t *Tree) names(id string) []string {
	all := []string{id}
	for alias := range t.alias {
		if t.files[id] == "" {
			alias = instantiate(alias, id)
		}
		if of, _ := t.id(alias); of == id && alias != id {
			all = append(all, alias)
		}
	}
	slices.Sort(all[1:])
	return slices.Compact(all)
}

// template is the template that name is an instance of, or "".
func template(name string) string {
	prefix, rest, ok := strings.Cut(name, "@")
	if !ok || rest == service {
		return ""
	}
	return prefix + "@" + service
}

// instantiate gives the template the instance string of the unit like.
func instantiate(template, like string) string {
	prefix, rest, ok := strings.Cut(template, "@")
	if _, instance, isInstance := strings.Cut(like, "@"); ok && isInstance && rest == service {
		return prefix + "@" + instance
	}
	return template
}

// Unit is a service with all that its files set.
type Unit struct {
	Name     string   // without aliases
	Fragment string   // path of the unit file
	DropIns  []string // paths, in the order in which systemd applies them
	settings []Setting
}

// Load reads the unit file of name and its drop-ins, systemd.unit(5). A template
// can be loaded, too. It fails with ErrNotFound, ErrMasked, ErrSyntax, or as
// reading the file failed.
func (t *Tree) Load(name string) (*Unit, error) {
	u := &Unit{}
	u.Name, u.Fragment = t.id(name)
	if u.Fragment == "" {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	if t.dir.IsNull(u.Fragment) {
		return nil, fmt.Errorf("%s: %w", name, ErrMasked)
	}
	switch err := t.read(u, u.Fragment); {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%s: %w: %s leads nowhere", name, ErrNotFound, u.Fragment)
	case err != nil:
		return nil, err
	}
	if err := t.readDropIns(u); err != nil {
		return nil, err
	}
	return u, nil
}

// Unseen reads the drop-ins of a unit without a file here: another generator may make
// that, at the same time. It fails with ErrNotFound where a file of that name leads
// nowhere.
func (t *Tree) Unseen(name string) (*Unit, error) {
	id, file := t.id(name)
	if file != "" {
		return nil, fmt.Errorf("%s: %w: %s leads nowhere", name, ErrNotFound, file)
	}
	u := &Unit{Name: id}
	return u, t.readDropIns(u)
}

func (t *Tree) readDropIns(u *Unit) error {
	dropIns, err := t.dropIns(u.Name)
	if err != nil {
		return err
	}
	for _, file := range dropIns {
		u.DropIns = append(u.DropIns, file)
		// systemd applies what it understood of a malformed drop-in, and goes on
		// without one that is not there.
		if err := t.read(u, file); err != nil && !errors.Is(err, ErrSyntax) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, root.ErrNotRegular) {
			return err
		}
	}
	return nil
}

// Installed fails with ErrNotFound or ErrMasked where no unit file of that name, of
// any type, is in force.
func (t *Tree) Installed(name string) error {
	for _, folder := range t.path {
		_, linkErr := t.dir.Readlink(folder, name)
		switch _, err := t.dir.ReadFile(folder+"/"+name, maxFile); {
		case t.dir.IsNull(folder + "/" + name):
			return fmt.Errorf("%s: %w", name, ErrMasked)
		case err == nil:
			return nil
		case linkErr == nil || !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return fmt.Errorf("%s: %w", name, ErrNotFound)
}

func (t *Tree) read(u *Unit, file string) error {
	text, err := t.dir.ReadFile(file, maxFile)
	if err != nil {
		return err
	}
	settings, ok := Parse(text, file)
	u.settings = append(u.settings, settings...)
	if !ok {
		return fmt.Errorf("%s: %w", file, ErrSyntax)
	}
	return nil
}

// dropIns lists the paths of id's drop-ins in the order in which they apply:
// that of their file names. Of one name, the file in the more important folder
// counts; masked ones are left out.
func (t *Tree) dropIns(id string) ([]string, error) {
	byName := map[string]string{}
	var failed error
	add := func(folder string) {
		if !t.folders[folder] {
			return
		}
		entries, err := t.dir.ReadDir(folder)
		if err != nil && !root.IsMissing(err) {
			failed = fmt.Errorf("listing drop-ins: %w", err)
		}
		for _, entry := range entries {
			name := entry.Name()
			if strings.HasSuffix(name, ".conf") && name[0] != '.' && byName[name] == "" {
				byName[name] = folder + "/" + name
			}
		}
	}
	for _, name := range t.names(id) {
		for _, folder := range t.path {
			for _, variant := range variants(name) {
				add(folder + "/" + variant + ".d")
			}
		}
	}
	if systemd.TypeWideDropIns.In(t.version) {
		for _, folder := range t.path {
			add(folder + "/service.d")
		}
	}
	var files []string
	for _, file := range byName {
		if !t.dir.IsNull(file) {
			files = append(files, file)
		}
	}
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(path.Base(a), path.Base(b)) })
	return files, failed
}

// OutranksGenerator tells whether a drop-in in that folder takes precedence over
// one of the same name in /run/systemd/generator.
func OutranksGenerator(file string) bool {
	folder := path.Dir(path.Dir(file))
	return path.Base(path.Dir(file)) != "service.d" && folder != splitUsr &&
		slices.Index(searchPath, folder) < slices.Index(searchPath, "/usr/local/lib/systemd/system")
}

// variants lists the names whose drop-in folders a unit reads in each folder of
// the search path: its own, those of its template, and those cut off after each
// dash.
func variants(name string) []string {
	all := []string{name}
	if t := template(name); t != "" {
		all = append(all, variants(t)...)
	}
	prefix, instance, _ := strings.Cut(strings.TrimSuffix(name, service), "@")
	i := strings.LastIndexByte(strings.TrimSuffix(prefix, "-"), '-')
	if i < 0 {
		return all
	}
	shorter := prefix[:i+1]
	if instance != "" {
		shorter += "@" + instance
	}
	return append(all, variants(shorter+service)...)
}

// Instances lists for each template the instances that have a file or drop-in
// folders of their own, also by an alias or with a prefix of the name only.
func (t *Tree) Instances() map[string][]string {
	all := map[string][]string{}
	add := func(name string) {
		id, _ := t.id(name)
		all[template(id)] = append(all[template(id)], id)
	}
	for name := range t.files {
		add(name)
	}
	for folder := range t.folders {
		name := strings.TrimSuffix(path.Base(folder), ".d")
		add(name)
		prefix, _, _ := strings.Cut(name, "@")
		if template(name) == "" || !strings.HasSuffix(prefix, "-") {
			continue
		}
		for of := range t.files {
			if strings.HasPrefix(of, prefix) && strings.HasSuffix(of, "@"+service) {
				add(instantiate(of, name))
			}
		}
	}
	for of, list := range all {
		slices.Sort(list)
		all[of] = slices.Compact(list)
	}
	return all
}
