# lpkg's completions for bash, and a command-not-found; see docs/lpkg.md
_lpkg() {
	local word=${COMP_WORDS[COMP_CWORD]} verb=${COMP_WORDS[1]} words
	[ "$COMP_CWORD" != 1 ] || verb=
	case $verb in
	"") words="install upgrade downgrade remove autoremove undo history update fetch clean hold
		unhold search list info files owner why verify audit fix alternatives repo key
		bootstrap pack index sign keygen selftest" ;;
	install | info | fetch) words=$(lpkg search "$word" 2>/dev/null | cut -d' ' -f1) ;;
	remove | upgrade | downgrade | files | why | verify | hold | unhold | audit | fix)
		words=$(lpkg list 2>/dev/null | cut -d' ' -f1) ;;
	esac
	case $word in
	-*) words="--root --repo --key --arch --yes --dry-run --json --offline --allow-unsigned
		--take --keep --meta -o --secret --comment --renew --encrypt --expires
		--serial-file --page --tar --no-database --repo-url --version --help" ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _lpkg lpkg
command_not_found_handle() {
	echo "$1: not found" >&2
	[ "$1" = lpkg ] || lpkg search "cmd:$1" 2>/dev/null | while read -r name _; do
		echo "  lpkg install $name" >&2
	done
	return 127
}
