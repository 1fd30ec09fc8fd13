# linitctl's completions for bash; see docs/linit.md
_linitctl() {
	local word=${COMP_LINE:0:COMP_POINT} verb=${COMP_WORDS[1]} words=
	word=${word##* }
	[ "$COMP_CWORD" != 1 ] || verb=
	case $verb:$word in
	*:-*) words="--socket --user --json --signal -f -o --version --help" ;;
	:*) words="start stop restart reload signal status list log enable disable wait events graph
		plot blame why check poweroff reboot halt reexec" ;;
	start:* | stop:* | restart:* | reload:* | signal:* | status:* | log:* | enable:* | disable:* | \
		wait:* | graph:* | why:*)
		words=$(linitctl list 2>/dev/null | cut -d' ' -f1 | grep . || ls /etc/init.d 2>/dev/null) ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$word"))
	# In the middle of getty@tty1 a word begins anew for bash.
	word=${word%"${word##*[@:]}"}
	COMPREPLY=("${COMPREPLY[@]#"$word"}")
}
complete -o default -F _linitctl linitctl
