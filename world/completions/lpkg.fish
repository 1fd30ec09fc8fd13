# lpkg's completions for fish, and a command-not-found; see docs/lpkg.md
complete -c lpkg -n __fish_use_subcommand -f -a "install upgrade downgrade remove autoremove undo history update fetch clean hold
unhold search list info files owner why verify audit fix alternatives repo key
bootstrap pack index sign keygen selftest"
complete -c lpkg -n "__fish_seen_subcommand_from install info fetch" -f \
	-a "(lpkg search (commandline -ct) 2>/dev/null | cut -d' ' -f1)"
complete -c lpkg -n "__fish_seen_subcommand_from remove upgrade downgrade files why verify hold unhold audit fix" -f \
	-a "(lpkg list 2>/dev/null | cut -d' ' -f1)"
for option in root repo key arch yes dry-run json offline allow-unsigned take keep \
		meta secret comment renew encrypt expires serial-file page tar no-database repo-url version help
	complete -c lpkg -l $option
end
complete -c lpkg -s o
function fish_command_not_found
	echo "$argv[1]: not found" >&2
	type -q lpkg; or return
	lpkg search "cmd:$argv[1]" 2>/dev/null | while read -d " " name _
		echo "  lpkg install $name" >&2
	end
end
