# Sourced by the scripts that measure real servers: what they empty or make anew is what they made, or was empty. A folder with
# anything of another's in it is refused, wherever an argument or a variable points them to. They define `die`.

# Lies in each folder that they made.
own_mark=.made-by-tailcliff-tests

# fresh_dir DIR: DIR with nothing in it but the mark.
fresh_dir() {
    if [ -e "$1" ] && [ ! -e "$1/$own_mark" ] && ! { [ -d "$1" ] && [ -z "$(ls -A -- "$1")" ]; }; then
        die "$1 is there and was not made by these tests: remove it, or name another folder"
    fi
    mkdir -p -- "$1"
    # The mark stays all the while, so that a folder that was emptied half-way is still known.
    : >"$1/$own_mark"
    find "$1/" -mindepth 1 -maxdepth 1 ! -name "$own_mark" -exec rm -rf -- {} +
}

# fresh_venv DIR: an empty virtual environment. One whose packages these tests noted is theirs too.
fresh_venv() {
    if [ -e "$1/installed.txt" ]; then
        : >"$1/$own_mark"
    fi
    fresh_dir "$1"
    python3 -m venv "$1" || die "failed to make a virtual environment: install Python 3 with its venv module \
(Debian: apt-get install python3 python3-venv)"
}
