# fish completion for bootseal(1)

set -l verbs encrypt decrypt list cat setup has-tpm2 help preview inspect check apply reseal rotate adopt explain

function __bootseal_policies
    set -l seen
    for file in /etc/bootseal/*.service.toml /run/bootseal/policy/*.service.toml /usr/local/lib/bootseal/*.service.toml /usr/lib/bootseal/*.service.toml
        set -l name (string replace -r '^.*/' '' -- $file)
        contains -- $name $seen; and continue
        set -a seen $name
        # An empty one masks.
        test -s $file; and string replace -r '\.toml$' '' -- $name
    end
end

# those that may be adopted, or have been
function __bootseal_services
    systemctl list-units --type=service --state=active --plain --no-legend 2>/dev/null | string replace -r ' .*' ''
end

# the words before the one that is being typed, without options and "bootseal"
function __bootseal_words
    set -l words (commandline -opc)
    string match -v -- '-*' $words[2..]
end

# __bootseal_names UNIT: the credentials in its policy, or its template's
function __bootseal_names
    set -l unit $argv[1]
    string match -q '*.*' -- $unit; or set unit $unit.service
    for name in $unit (string replace -r '@.*' '' -- $unit)@.service
        for dir in /etc/bootseal /run/bootseal/policy /usr/local/lib/bootseal /usr/lib/bootseal
            test -e $dir/$name.toml; or continue
            string match -r -g '^\s*name\s*=\s*"([^"]*)"' <$dir/$name.toml
            return
        end
    end
end

function __bootseal_names_of_option
    set -l unit (string match -r -g -- '--unit[= ](\S+)' (commandline -cp))[1]
    test -n "$unit"; and __bootseal_names $unit
end

function __bootseal_rotate
    set -l words (__bootseal_words)
    switch (count $words)
        case 1
            __bootseal_policies
        case 2
            __bootseal_names $words[2]
    end
end

function __bootseal_blobs
    for file in /etc/credstore.encrypted/*
        test -f $file; and echo $file
    end
end

complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -f
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a encrypt -d 'Encrypt a secret'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a decrypt -d 'Decrypt a credential'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a list -d 'List the credentials passed to this process'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a cat -d 'Print such credentials'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a setup -d 'Make the host key'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a has-tpm2 -d 'Tell what there is for TPM 2.0'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a help -d 'Show a verb, or all'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a preview -d 'Show the drop-ins of the generator'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a inspect -d 'Tell what a credential is bound to'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a check -d 'Look for what keeps units from starting'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a apply -d 'Put policies into force'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a reseal -d 'Seal again'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a rotate -d 'Give a unit a new secret'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a adopt -d 'Take a unit from plaintext to sealed'
complete -c bootseal -n "not __fish_seen_subcommand_from $verbs" -a explain -d 'Tell why a unit did not start'

complete -c bootseal -n "__fish_seen_subcommand_from preview check apply explain" -f -a '(__bootseal_policies)'
complete -c bootseal -n "__fish_seen_subcommand_from adopt" -f -a '(__bootseal_services)'
complete -c bootseal -n "__fish_seen_subcommand_from inspect reseal" -a '(__bootseal_policies)'
complete -c bootseal -n "__fish_seen_subcommand_from rotate" -a '(__bootseal_rotate)'
complete -c bootseal -n "__fish_seen_subcommand_from inspect reseal decrypt" -a '(__bootseal_blobs)'
complete -c bootseal -n "__fish_seen_subcommand_from encrypt" -a '(__bootseal_names_of_option)'
complete -c bootseal -n "__fish_seen_subcommand_from list setup has-tpm2 help" -f
complete -c bootseal -n "__fish_seen_subcommand_from help" -a "$verbs"

complete -c bootseal -l unit -x -a '(__bootseal_policies)' -d 'Encrypt for this unit'
complete -c bootseal -l compat -x -d 'Oldest systemd to encrypt for'
complete -c bootseal -l dry-run -d 'Show what adopt would do'
complete -c bootseal -l keep -d 'Adopt, and leave the plaintext'
complete -c bootseal -l undo -d 'Take an adopted unit back'
complete -c bootseal -l option -x -d 'Adopt the file that this option names'
complete -c bootseal -l systemd -x -d 'Preview for this version'
complete -c bootseal -l root -x -a '(__fish_complete_directories)' -d 'Preview for the machine below'
complete -c bootseal -l unseal -d 'Check by opening, too'
complete -c bootseal -l metrics -r -d 'Write metrics for node_exporter'
complete -c bootseal -l json -x -a 'short pretty off' -d 'Print JSON'
complete -c bootseal -l no-legend -d 'Print no heading'
complete -c bootseal -s h -l help -d 'Show a short help'
complete -c bootseal -l version -d 'Show the version'
complete -c bootseal -l with-key -x -a 'host tpm2 host+tpm2 tpm2-with-public-key host+tpm2-with-public-key null auto auto-initrd' -d 'What to encrypt with'
complete -c bootseal -s H -d 'With the host key'
complete -c bootseal -s T -d 'With the TPM'
complete -c bootseal -l tpm2-device -x -d 'The TPM'
complete -c bootseal -l tpm2-pcrs -x -d 'PCRs to seal to'
complete -c bootseal -l tpm2-public-key -r -d 'Key that signs PCR values'
complete -c bootseal -l tpm2-public-key-pcrs -x -d 'PCRs that it signs'
complete -c bootseal -l tpm2-signature -r -d 'Its signatures'
complete -c bootseal -l user -d 'For oneself'
complete -c bootseal -l uid -x -a '(__fish_complete_users)' -d 'For this user'
complete -c bootseal -l name -x -d 'Name of the credential'
complete -c bootseal -l timestamp -x -d 'Time of encryption'
complete -c bootseal -l not-after -x -d 'When it expires'
complete -c bootseal -l allow-null -d 'Accept the null key'
complete -c bootseal -l refuse-null -d 'Refuse the null key'
complete -c bootseal -s p -l pretty -d 'Print a setting for a unit'
complete -c bootseal -l newline -x -a 'auto yes no' -d 'End plaintext with a newline'
complete -c bootseal -l transcode -x -a 'base64 unbase64 hex unhex' -d 'Encode plaintext'
complete -c bootseal -l system -d 'What was passed to the machine'
complete -c bootseal -s q -l quiet -d 'Exit status only'
complete -c bootseal -l no-pager -d 'As it is anyway'
complete -c bootseal -l no-ask-password -d 'As it is anyway'
