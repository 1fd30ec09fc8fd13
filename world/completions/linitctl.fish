# linitctl's completions for fish; see docs/linit.md
function __linitctl_names
	set names (linitctl list 2>/dev/null | cut -d' ' -f1)
	test -n "$names"; or set names (ls /etc/init.d 2>/dev/null)
	string join \n $names
end
complete -c linitctl -n __fish_use_subcommand -f -a "start stop restart reload signal status list log
enable disable wait events graph plot blame why check poweroff reboot halt reexec"
complete -c linitctl -n "__fish_seen_subcommand_from start stop restart reload signal status log \
enable disable wait graph why" -f -a "(__linitctl_names)"
for option in socket user json signal version help
	complete -c linitctl -l $option
end
complete -c linitctl -s f
complete -c linitctl -s o
