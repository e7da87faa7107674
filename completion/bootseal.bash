# bash completion for bootseal(1)

_bootseal_policies() {
	local dir file
	for dir in /etc/bootseal /run/bootseal/policy /usr/local/lib/bootseal /usr/lib/bootseal; do
		for file in "$dir"/*.service.toml; do
			[[ -s $file ]] && file=${file##*/} && printf '%s\n' "${file%.toml}"
		done
	done
}

# _bootseal_names UNIT: the credentials in its policy
_bootseal_names() {
	local dir unit=$1
	[[ $unit == *.* ]] || unit+=.service
	for dir in /etc/bootseal /run/bootseal/policy /usr/local/lib/bootseal /usr/lib/bootseal; do
		[[ -e $dir/$unit.toml ]] || continue
		sed -n 's/^[[:blank:]]*name[[:blank:]]*=[[:blank:]]*"\([^"]*\)".*/\1/p' "$dir/$unit.toml"
		return
	done
}

_bootseal_blobs() {
	local file
	for file in /etc/credstore.encrypted/*; do
		[[ -f $file ]] && printf '%s\n' "$file"
	done
}

_bootseal() {
	local cur=${COMP_WORDS[COMP_CWORD]} verb='' unit='' option='' i words
	local verbs='encrypt decrypt list cat setup has-tpm2 help preview inspect check apply reseal rotate explain'
	local options='--unit= --compat= --systemd= --root= --unseal --metrics= --json= --no-legend --help --version
		--with-key= -H -T --tpm2-device= --tpm2-pcrs= --tpm2-public-key= --tpm2-public-key-pcrs= --tpm2-signature=
		--user --uid= --name= --timestamp= --not-after= --allow-null --refuse-null --pretty --newline= --transcode=
		--system --quiet --no-pager --no-ask-password'
	# "=" is a word of its own in COMP_WORDS.
	for ((i = 1; i < COMP_CWORD; i++)); do
		if [[ ${COMP_WORDS[i]} == --unit && ${COMP_WORDS[i + 1]} == = && $((i + 2)) -lt $COMP_CWORD ]]; then unit=${COMP_WORDS[i + 2]}; fi
		if [[ ${COMP_WORDS[i]} != -* && ${COMP_WORDS[i]} != = && ${COMP_WORDS[i - 1]} != = && -z $verb ]]; then verb=${COMP_WORDS[i]}; fi
	done
	if [[ $cur == = ]]; then
		option=${COMP_WORDS[COMP_CWORD - 1]} cur=
	elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == = ]]; then
		option=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	COMPREPLY=()
	case $option in
	--unit) words=$(_bootseal_policies) ;;
	--with-key) words='host tpm2 host+tpm2 tpm2-with-public-key host+tpm2-with-public-key null auto auto-initrd' ;;
	--json) words='short pretty off' ;;
	--newline) words='auto yes no' ;;
	--transcode) words='base64 unbase64 hex unhex' ;;
	--root | --metrics | --tpm2-public-key | --tpm2-signature)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--*) return ;;
	*)
		if [[ $cur == -* ]]; then
			words=$options
			compopt -o nospace 2>/dev/null
		elif [[ -z $verb ]]; then
			words=$verbs
		else
			case $verb in
			preview | check | apply | explain) words=$(_bootseal_policies) ;;
			inspect | reseal) words="$(_bootseal_policies) $(_bootseal_blobs) $(compgen -f -- "$cur")" ;;
			rotate)
				if [[ ${COMP_WORDS[COMP_CWORD - 1]} == rotate ]]; then
					words=$(_bootseal_policies)
				else
					words="$(_bootseal_names "${COMP_WORDS[COMP_CWORD - 1]}") $(compgen -f -- "$cur")"
				fi
				;;
			encrypt)
				if [[ -n $unit ]]; then
					words="$(_bootseal_names "$unit") $(compgen -f -- "$cur")"
				else
					words=$(compgen -f -- "$cur")
				fi
				;;
			decrypt) words="$(_bootseal_blobs) $(compgen -f -- "$cur")" ;;
			cat) [[ -n ${CREDENTIALS_DIRECTORY-} ]] && words=$(ls -- "$CREDENTIALS_DIRECTORY") ;;
			esac
		fi
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "${words-}" -- "$cur")
}

complete -F _bootseal bootseal
