# SPDX-License-Identifier: LGPL-2.1-or-later
# bash completion for district(1)

_district_names()
{
	district --json list 2>/dev/null | grep -o '"name":"[^"]*"' | cut -d'"' -f4
}

_district_hosts()
{
	district --json host list 2>/dev/null | grep -o '"name":"[^"]*"' | cut -d'"' -f4
}

_district()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' i words=''

	COMPREPLY=()
	for ((i = 1; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--config | --socket | -c | -s) ((i++)) ;;
		-*) ;;
		*)
			verb=${COMP_WORDS[i]}
			break
			;;
		esac
	done
	case $prev in
	--config | --socket | -c | -s)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--standby | --to)
		mapfile -t COMPREPLY < <(compgen -W "$(_district_hosts)" -- "$cur")
		return
		;;
	--interval)
		mapfile -t COMPREPLY < <(compgen -W "auto 10ms 25ms 100ms" -- "$cur")
		return
		;;
	--max-slowdown)
		mapfile -t COMPREPLY < <(compgen -W "5% 10% 20%" -- "$cur")
		return
		;;
	--output-commit)
		mapfile -t COMPREPLY < <(compgen -W "yes no" -- "$cur")
		return
		;;
	esac
	case $verb in
	'') words="create destroy start stop restart rollback list show console checkpoint clone log store export import protect
		unprotect
		failover migrate host events top doctor --json --config --socket --help --version" ;;
	create)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	destroy | start | unprotect) words="$(_district_names) --force" ;;
	stop) words="$(_district_names) --timeout --force" ;;
	restart) words="$(_district_names) --from --force" ;;
	rollback) words="$(_district_names) --to --force" ;;
	show | log | failover) words=$(_district_names) ;;
	store) words="check $(_district_names)" ;;
	export)
		words="$(_district_names) --at --force"
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur"; compgen -f -- "$cur")
		return
		;;
	import)
		mapfile -t COMPREPLY < <(compgen -W "--as --isolated" -- "$cur"; compgen -f -- "$cur")
		return
		;;
	console) words="$(_district_names) --log" ;;
	clone) words="$(_district_names) --at --as" ;;
	checkpoint) words="$(_district_names) --label" ;;
	protect) words="$(_district_names) --standby --interval --max-slowdown --max-lag --output-commit --wait --timeout" ;;
	migrate) words="$(_district_names) --to" ;;
	events) words="--follow" ;;
	top) words="--once" ;;
	host) words="add list remove --address --second-address --token --joined $(_district_hosts)" ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _district district
