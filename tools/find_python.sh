# Prints the Python 3.13 to use, or one line that says what is wrong and how to get it.
# The functions run on 3.13, and the local AWS runs them with this very interpreter and wheels built for it.
#
#   sh tools/find_python.sh [interpreter]

found=""
if [ -n "$1" ]; then set -- "$1"; else set -- python3.13 python3 python; fi
for name in "$@"; do
	version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
	if [ "$version" != 3.13 ]; then
		minor=${version#3.}
		case $version in 3.*) [ "$minor" -gt 13 ] && fault="too new" || fault="too old" ;; *) fault="too old" ;; esac
		found="$found $name is $version, $fault;"
	elif ! "$name" -c 'import ensurepip, venv' 2>/dev/null; then
		echo "$name has no venv module: apt install python3.13-venv, then run make again." >&2
		exit 1
	else
		"$name" -c 'import sys; print(sys.executable)'
		exit 0
	fi
done
echo "Python 3.13 is needed:${found:- $1 is missing;} get it with pyenv install 3.13," \
	"apt install python3.13 python3.13-venv, brew install python@3.13 or from https://www.python.org/downloads/," \
	"or name it: make PYTHON=/path/to/python3.13" >&2
exit 1
