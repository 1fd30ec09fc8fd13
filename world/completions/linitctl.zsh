#compdef linitctl
# linitctl's completions for zsh; see docs/linit.md
_linitctl() {
	local verb=$words[2]
	[[ $CURRENT != 2 ]] || verb=
	[[ $PREFIX != -* ]] || verb=-
	case $verb in
	-) compadd -- --socket --user --json --signal -f -o --version --help ;;
	"") compadd -- start stop restart reload signal status list log enable disable wait events graph \
		plot blame why check poweroff reboot halt reexec ;;
	start | stop | restart | reload | signal | status | log | enable | disable | wait | graph | why)
		compadd -- $(linitctl list 2>/dev/null | cut -d' ' -f1 | grep . ||
			ls /etc/init.d 2>/dev/null) ;;
	*) _files ;;
	esac
}
compdef _linitctl linitctl
