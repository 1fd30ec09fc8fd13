# /etc/profile.d/motd.sh: what a newcomer needs, told at each login; touch ~/.hushlogin ends it.

tell() { ! command -v "$1" >/dev/null || printf '  %-22s %s\n' "$2" "$3"; }
case $0:$HOME in
-*) [ -e ~/.hushlogin ] || {
	echo "This is Panux."
	tell lpkg "lpkg search WORD" "find a program; lpkg install NAME"
	tell linitctl "linitctl list" "what runs; linitctl why NAME"
	command -v linitctl >/dev/null || tell ls "ls /etc/init.d" "services; /etc/init.d/NAME status"
	tell poweroff "poweroff" "end it; reboot"
	! grep -q '^root::' /etc/shadow 2>/dev/null || tell passwd passwd "root has no password: set one"
} ;;
esac
unset -f tell
