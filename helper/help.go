package main

const help = `bootseal [OPTIONS...] VERB [ARGUMENTS...]

Seal credentials to this machine and open them again.

Verbs:
  encrypt --unit=UNIT NAME [INPUT]
                                  Encrypt as the unit's policy says, to where it
                                  says; INPUT is - if not given
  preview [UNIT...]               Show the drop-ins that the generator would
                                  write, for all policies or these units
  inspect FILE...|UNIT...         Tell what credentials are bound to, without
                                  opening them
  check [UNIT...]                 Look for what keeps units with a policy from
                                  starting; 0 all well, 1 not, 2 could not look
  apply [UNIT...]                 Put policies into force: reload systemd, and
                                  restart the services that run with older ones
  reseal [UNIT...|FILE...]        Seal again, as the policies say now
  rotate UNIT NAME [INPUT]        Seal a new secret and restart the unit; if it
                                  does not stay up, back to the old one
  adopt UNIT                      Take a unit that runs from plaintext files to
                                  sealed credentials; if anything fails, back
  explain UNIT                    Tell why the last start of a unit failed

Verbs as systemd-creds(1) has them:
` + helpVerbs + `
Verbs for unit files:
  unseal --unit=%n NAME[:PATH]... Put plaintext where the unit's LoadCredential=
                                  finds it; in ExecStartPre=+
  cleanup --unit=%n               Take it away again; in ExecStopPost=+

Options:
      --unit=UNIT                 Encrypt for this unit
      --compat=VERSION            Encrypt so that this systemd and newer ones can
                                  decrypt (the one that runs, 250 at least)
      --unseal                    Check by opening the credentials, too
      --metrics=FILE              Write what check found for node_exporter
      --dry-run                   Show what adopt would do
      --keep                      Adopt, and leave the plaintext files
      --undo                      Take an adopted unit back to its plaintext files
      --option=OPTION             Adopt the file that this option of the unit's
                                  command names (step-ca's four)
      --systemd=VERSION           Preview for a machine with this systemd
      --root=DIR                  Preview for the machine, or image, below DIR

Options as systemd-creds(1) has them:
` + helpOptions + `
Exit status, but for check and has-tpm2 (the sum of 1 firmware, 2 driver, 4 systemd,
8 kernel, 16 libraries, of those that are missing):
`

const helpOfSystemdCreds = `systemd-creds [OPTIONS...] [VERB] [ARGUMENTS...]

Show, encrypt and decrypt credentials; this is bootseal under another name.

Verbs:
` + helpVerbs + `
Options:
` + helpOptions

const helpVerbs = `  encrypt INPUT OUTPUT            Encrypt a plaintext file
  decrypt INPUT [OUTPUT]          Decrypt a credential file
  list                            List the credentials passed to this process
  cat CREDENTIAL...               Print such credentials
  setup                           Make the host key, if there is none yet
  has-tpm2                        Tell what there is for TPM 2.0
  help                            Show this help

INPUT and OUTPUT may be - for standard input and output.
`

const helpOptions = `  -h, --help                      Show this help
      --version                   Show the version
 What to encrypt with:
      --with-key=KEY              host, tpm2, host+tpm2, tpm2-with-public-key,
                                  host+tpm2-with-public-key, null; auto: the host
                                  key and the TPM, whichever there are (default);
                                  auto-initrd: the TPM, or null without one
  -H                              The same as --with-key=host
  -T                              The same as --with-key=tpm2, with the public key
                                  if there is one
      --tpm2-device=DEVICE        The TPM: a path, device:PATH, swtpm:path=PATH,
                                  swtpm:host=HOST,port=PORT, auto, or list
                                  ($SYSTEMD_TPM2_DEVICE, or /dev/tpmrm0)
      --tpm2-pcrs=PCR+PCR...      The PCRs to seal to, 0 to 23 or by name. None if
                                  not given: systemd before 258 took PCR 7, and
                                  lost the secrets with every Secure Boot update
      --tpm2-public-key=FILE      Seal to PCR values that this key signs, PEM
                                  (tpm2-pcr-public-key.pem in /etc/systemd,
                                  /run/systemd, /usr/lib/systemd)
      --tpm2-public-key-pcrs=PCR+PCR...
                                  The PCRs whose values it signs (11)
      --tpm2-signature=FILE       Its signatures, to decrypt with
                                  (tpm2-pcr-signature.json in the same folders)
      --user, --uid=USER          For oneself, or for this user, instead of for
                                  the system; needs the host key
 What goes into the credential:
      --name=NAME                 Its name; from the file name if not given, empty
                                  for none
      --timestamp=TIME            The time of encryption, or at which not-after is
                                  checked when decrypting (now)
      --not-after=TIME            When it expires
 What is accepted:
      --allow-null                The null key, also under Secure Boot
      --refuse-null               No null key
 Output:
  -p, --pretty                    Encrypt to a SetCredentialEncrypted= setting
      --newline=auto|yes|no       End plaintext with a newline (auto: on a
                                  terminal)
      --transcode=base64|unbase64|hex|unhex
                                  Print plaintext in another encoding, or decode it
      --json=short|pretty|off     Print tables, or plaintext that is JSON, on one
                                  line or indented
      --no-legend                 Print tables without heading
      --system                    List or print what was passed to the machine
  -q, --quiet                     Only the exit status of has-tpm2
      --no-pager, --no-ask-password
                                  As it is anyway
`
