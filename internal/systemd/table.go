package systemd

// Fact is what some versions of systemd can do or fail to do, as far as it concerns
// credentials.
type Fact struct {
	From  int    // the first version of which it holds
	Until int    // the last one; 0 where it still does
	What  string // of it in a sentence, which the manual has, too
	Tried string // versions on which it was run; "source" where it was only read there
}

// In tells whether the fact holds of a version.
func (f Fact) In(version int) bool {
	return f.From <= version && (f.Until == 0 || version <= f.Until)
}

// table is all facts, in the order of versions.
var table []Fact

// fact adds a row.
func fact(from, until int, what, tried string) Fact {
	f := Fact{from, until, what, tried}
	table = append(table, f)
	return f
}

// onward is the end of what still holds.
const onward = 0

// The facts. A new one is a new row here and in bootseal-generator(8), and nothing
// else. Nobody but this package compares a version with a number.
var (
	Supported = fact(239, onward,
		"has every setting that a hook needs",
		"239, 245, 247, 249, 250, 251, 252, 254, 255, 256, 257, 262")
	RunsScripts = fact(239, 259,
		"makes units of the scripts in /etc/init.d",
		"247, 252, 254, 257, and not any more 262; not 258 to 261")
	BindsBelowRunCredentials = fact(239, 246,
		"shows a unit what is bound below /run/credentials",
		"239, 245")
	IgnoresLoadCredential = fact(239, 246,
		"does not know LoadCredential= and SetCredential=, and ignores them",
		"239, 245")
	SpinsAfterExec = fact(240, 249,
		"may not come to rest where a Type=exec service with ExecStopPost= could not be executed (203/EXEC)",
		"247, and not 252 and 257; not 240 to 246, 248 and 249")
	TypeWideDropIns = fact(244, onward,
		"reads drop-ins for all services in service.d/",
		"239, 245, 247, 252, 257, 262")
	LoadsCredentials = fact(247, onward,
		"has LoadCredential= and SetCredential=, also from a socket",
		"247, 249, 252, 257, 262")
	HidesRunCredentials = fact(247, onward,
		"makes /run/credentials inaccessible to units with namespaces and without credentials of systemd's",
		"247, 249; source above")
	CredentialsFailHooks = fact(247, 247,
		"fails any ExecStartPre= of a unit with LoadCredential= and a mount namespace, with 226/NAMESPACE",
		"247, and without the fault 249")
	HooksLackCredentials = fact(248, 251,
		"gives no credentials to ExecStartPre=",
		"249, 250, 251, and with them 252")
	ConditionsLackCredentials = fact(248, 257,
		"gives no credentials to ExecCondition=",
		"249, 250, 251, 252, 254, 257, and with them 262; not 258 to 261")
	EncryptedCredentials = fact(250, onward,
		"has LoadCredentialEncrypted= and opens credentials itself",
		"250, 251, 252, 254, 255, 256, 257, 262")
	SealedAnswers = fact(250, onward,
		"opens encrypted credentials that it reads from a socket",
		"252, 257, 262; not 250 and 251")
	BindsToPCR7 = fact(250, 257,
		"binds to PCR 7 what is encrypted without a word about PCRs",
		"252, 257, and without it 262")
	ChecksDropInLinks = fact(250, onward,
		"follows a link as a folder of drop-ins only where a unit may have its name",
		"247, 252, 257, 262")
	MountsTakeCredentials = fact(250, 255,
		"with PrivateMounts=yes gives none to ExecStartPost=, ExecReload=, ExecStop= and ExecStopPost=",
		"250, 251, 252, 254, 255, and otherwise 257")
	OneshotsLoseCredentials = fact(250, 251,
		"with PrivateMounts=yes gives none to the second ExecStart= of a oneshot",
		"250, 251, and with them 252")
	CredentialsSpecifier = fact(251, onward,
		"has %d for the folder of credentials",
		"250, 251, 252, 257, 262")
	NamesTPM2 = fact(251, onward,
		"says in its list of features whether it was built for a TPM",
		"250, 251, 252, 257, 262")
	HookCredentials = fact(252, onward,
		"loads credentials before ExecStartPre=, which cannot make one of them any more",
		"252; source above")
	ReloadsCredentials = fact(252, 256,
		"opens credentials again for the second ExecReload= and those after it, which fail where it cannot",
		"252, 254, and otherwise 257, 262; not 255 and 256")
	SignedPolicies = fact(252, onward,
		"encrypts to signed values of PCRs",
		"252, 257, 262")
	AllowsTPM = fact(252, onward,
		"lets a unit with a device policy use the TPM where it has encrypted credentials",
		"247, 252, 257, 262")
	CredentialsAsACL = fact(254, onward,
		"gives a unit's user credentials of mode 0440 by an ACL, where they were the user's with 0400",
		"254, 257, and otherwise 252")
	WaitsForExec = fact(255, onward,
		"takes a service with credentials and without a Type= for Type=exec",
		"257, 262, and without it 252 and 254; not 255 and 256")
	OpensForeign = fact(255, onward,
		"opens what was encrypted to the TPM from elsewhere, from its public key",
		"257, 262")
	SilentSteps = fact(255, 255,
		"does not log at which step a process failed",
		"254, 255, 256")
	UserCredentials = fact(256, onward,
		"encrypts and decrypts for unprivileged users over Varlink",
		"256, 257, 262")
	UnquotesSources = fact(257, onward,
		"reads blanks and backslashes in the path of LoadCredentialEncrypted= otherwise",
		"252, 254, 257, 262; not 255 and 256")
	LateCommandsLackCredentials = fact(257, onward,
		"gives no credentials to ExecReload=, ExecStop= and ExecStopPost=",
		"257, 262")
	FailsConditions = fact(258, onward,
		"takes a credential that cannot be opened for an ExecCondition= that is not met, and skips the unit",
		"262, and not 252, 254 and 257; not 258 to 261")
	OpensElsewhere = fact(258, onward,
		"opens credentials of units with a device policy in systemd-creds@.service",
		"262")
	RefreshesCredentials = fact(260, onward,
		"has RefreshOnReload=credentials",
		"source")
	PinnedSRK = fact(262, onward,
		"has credentials that name the storage root key of their TPM",
		"257, 262")
	NullKeyPolicy = fact(262, onward,
		"takes systemd.credentials_boot_policy= for whether null keys are accepted",
		"262")
)
