#compdef lpkg
# lpkg's completions for zsh, and a command-not-found; see docs/lpkg.md
_lpkg() {
	local verb=$words[2]
	[[ $CURRENT != 2 ]] || verb=
	[[ $PREFIX != -* ]] || verb=-
	case $verb in
	-) compadd -- --root --repo --key --arch --yes --dry-run --json --offline --allow-unsigned \
		--take --keep --meta -o --secret --comment --renew --encrypt --expires \
		--serial-file --page --tar --no-database --repo-url --version --help ;;
	"") compadd -- install upgrade downgrade remove autoremove undo history update fetch clean hold \
		unhold search list info files owner why verify audit fix alternatives repo key \
		bootstrap pack index sign keygen selftest ;;
	install | info | fetch) compadd -- $(lpkg search "$PREFIX" 2>/dev/null | cut -d' ' -f1) ;;
	remove | upgrade | downgrade | files | why | verify | hold | unhold | audit | fix)
		compadd -- $(lpkg list 2>/dev/null | cut -d' ' -f1) ;;
	*) _files ;;
	esac
}
compdef _lpkg lpkg
command_not_found_handler() {
	echo "$1: not found" >&2
	[ "$1" = lpkg ] || lpkg search "cmd:$1" 2>/dev/null | while read -r name _; do
		echo "  lpkg install $name" >&2
	done
	return 127
}
