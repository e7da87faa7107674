# bash completion for bootseal(1)

# Candidates are never given to "compgen -W", which runs commands that it finds
# in them.

_bootseal_policies() {
	local dir file
	local -A seen=()
	for dir in /etc/bootseal /run/bootseal/policy /usr/local/lib/bootseal /usr/lib/bootseal; do
		for file in "$dir"/*.service.toml; do
			[[ -e $file && -z ${seen[${file##*/}]-} ]] || continue
			seen[${file##*/}]=1
			# An empty one masks.
			[[ -s $file ]] && file=${file##*/} && words+=("${file%.toml}")
		done
	done
}

# those that may be adopted, or have been
_bootseal_services() {
	mapfile -t words < <(systemctl list-units --type=service --state=active --plain --no-legend 2>/dev/null | cut -d ' ' -f 1)
}

# _bootseal_names UNIT: the credentials in its policy, or its template's
_bootseal_names() {
	local dir name unit=$1
	[[ $unit == *.* ]] || unit+=.service
	for name in "$unit" "${unit%%@*}@.service"; do
		for dir in /etc/bootseal /run/bootseal/policy /usr/local/lib/bootseal /usr/lib/bootseal; do
			[[ -e $dir/$name.toml ]] || continue
			mapfile -t words < <(sed -n 's/^[[:blank:]]*name[[:blank:]]*=[[:blank:]]*"\([^"]*\)".*/\1/p' "$dir/$name.toml")
			return
		done
	done
}

_bootseal_blobs() {
	local file
	for file in /etc/credstore.encrypted/*; do
		[[ -f $file ]] && words+=("$file")
	done
}

_bootseal() {
	local before=${COMP_LINE:0:COMP_POINT} cur verb='' unit='' option='' value word i
	local -a line args=() words=()
	local verbs='encrypt decrypt list cat setup has-tpm2 help preview inspect check apply reseal rotate adopt explain'
	local options='--unit= --compat= --systemd= --root= --unseal --metrics= --dry-run --keep --undo --option= --json= --no-legend --help --version
		--with-key= -H -T --tpm2-device= --tpm2-pcrs= --tpm2-public-key= --tpm2-public-key-pcrs= --tpm2-signature=
		--user --uid= --name= --timestamp= --not-after= --allow-null --refuse-null --pretty --newline= --transcode=
		--system --quiet --no-pager --no-ask-password'
	# COMP_WORDS has "=", "@" and ":" as words of their own.
	read -ra line <<<"$before"
	[[ $before == *[[:blank:]] ]] && line+=('')
	cur=${line[-1]}
	for ((i = 1; i < ${#line[@]} - 1; i++)); do
		word=${line[i]}
		if [[ -n $option ]]; then
			[[ $option == --unit ]] && unit=$word
			option=''
		elif [[ $word == --unit=* ]]; then
			unit=${word#*=}
		elif [[ $word == -* ]]; then
			[[ $options =~ (^|[[:space:]])"$word=" ]] && option=$word
		elif [[ -z $verb ]]; then
			verb=$word
		else
			args+=("$word")
		fi
	done
	value=$cur
	[[ -z $option && $cur == --*=* ]] && option=${cur%%=*} value=${cur#*=}
	COMPREPLY=()
	case $option in
	--unit) _bootseal_policies ;;
	--with-key) words=(host tpm2 host+tpm2 tpm2-with-public-key host+tpm2-with-public-key null auto auto-initrd) ;;
	--json) words=(short pretty off) ;;
	--newline) words=(auto yes no) ;;
	--transcode) words=(base64 unbase64 hex unhex) ;;
	--root | --metrics | --tpm2-public-key | --tpm2-signature) compopt -o default ;;
	--*) ;;
	*)
		if [[ $cur == -* ]]; then
			read -ra words <<<"${options//[[:space:]]/ }"
		elif [[ -z $verb ]]; then
			read -ra words <<<"$verbs"
		else
			# Files where nothing else fits.
			case $verb,${#args[@]} in
			preview,* | check,* | apply,* | explain,* | rotate,0) _bootseal_policies ;;
			inspect,* | reseal,*)
				_bootseal_policies
				_bootseal_blobs
				compopt -o default
				;;
			adopt,*) _bootseal_services ;;
			help,0) read -ra words <<<"$verbs" ;;
			rotate,1) _bootseal_names "${args[0]}" ;;
			encrypt,0) if [[ -n $unit ]]; then _bootseal_names "$unit"; else compopt -o default; fi ;;
			decrypt,0)
				_bootseal_blobs
				compopt -o default
				;;
			rotate,2 | encrypt,1 | decrypt,1) compopt -o default ;;
			cat,*)
				[[ -n ${CREDENTIALS_DIRECTORY-} ]] && for word in "$CREDENTIALS_DIRECTORY"/*; do
					[[ -f $word ]] && words+=("${word##*/}")
				done
				;;
			esac
		fi
		;;
	esac
	# Readline puts what it gets in the place of $2, which may be a part of the word.
	local begin=${cur%"$value"} kept=${cur%"$2"}
	for word in "${words[@]}"; do
		[[ $word == "$value"* ]] || continue
		word=$begin$word
		COMPREPLY+=("${word#"$kept"}")
	done
	[[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}

complete -F _bootseal bootseal
