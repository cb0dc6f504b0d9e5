# shellcheck shell=bash
# What the scripts that start a private database server share. Sourced, after `set -euo pipefail`.
#
# A server gets a temporary folder, a free port on loopback and an unprivileged user. It is stopped by its pid, and on
# Linux it also dies with the script, however that ends.

directory= # holds everything of the servers; removed at the end
servers=() # their pids
command_pid=

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

require() {
    local name
    for name; do
        command -v "$name" >/dev/null || die "\`$name\` is not installed: run scripts/setup, or see what it says"
    done
}

# Makes the folder, and chooses who runs the servers: the words before a server's command line are in `as_server`.
prepare_directory() {
    directory=$(mktemp -d "${TMPDIR:-/tmp}/overspill-${0##*/}.XXXXXX")
    trap stop_all EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    as_server=()
    if command -v setpriv >/dev/null; then
        as_server=(setpriv --pdeathsig KILL)
        if [ "$(id -u)" = 0 ]; then
            local user=nobody
            if id mysql >/dev/null 2>&1; then user=mysql; fi
            chmod 755 "$directory"
            as_server+=("--reuid=$user" "--regid=$(id -g "$user")" --clear-groups)
        fi
    fi
    # A MariaDB that starts removes the temporary tables of every other one in the same folder.
    server_directory "$directory/tmp"
    as_server+=(env "TMPDIR=$directory/tmp")
}

# A folder that the server may write.
server_directory() {
    mkdir "$1"
    if [ "$(id -u)" = 0 ] && [ "${#as_server[@]}" -gt 3 ]; then
        chown "${as_server[3]#--reuid=}" "$1"
    fi
}

# A port on which nothing listens now, below those that the kernel hands out. Sets `port`, so that it needs no subshell.
taken=" "
free_port() {
    local attempt
    for attempt in {1..200}; do
        port=$((10000 + (RANDOM * 32768 + RANDOM) % 20000))
        case $taken in *" $port "*) continue ;; esac
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
            taken+="$port "
            return
        fi
    done
    die "no free port found in $attempt tries"
}

# start_server LOG CMD…: sets `server`.
start_server() {
    local log=$1
    shift
    "${as_server[@]}" "$@" </dev/null >>"$log" 2>&1 &
    server=$!
    servers+=("$server")
    disown "$server" # or bash says that it was killed
}

# wait_for SECONDS PID CMD…: until CMD succeeds; fails when PID is gone or the time is up.
wait_for() {
    local until=$((SECONDS + $1)) pid=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$until" ]; then return 1; fi
        sleep 0.05
    done
}

# The processes below PID, deepest first, then PID. A command that is told to stop may leave its own children behind.
tree_of() {
    local child children
    children=$(cat "/proc/$1/task/"*/children 2>/dev/null || true)
    for child in $children; do tree_of "$child"; done
    printf '%s\n' "$1"
}

# until_gone PID: bounded. Not with `wait`, which in a trap may not come back though the process has ended.
until_gone() {
    local attempt
    # shellcheck disable=SC2034
    for attempt in {1..100}; do
        kill -0 "$1" 2>/dev/null || return 0
        sleep 0.05
    done
    return 1
}

stop_command() {
    trap '' INT TERM HUP
    local pid pids
    pids=$(tree_of "$command_pid")
    for pid in $pids; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in $pids; do until_gone "$pid" || kill -KILL "$pid" 2>/dev/null || true; done
    exit "$1"
}

# run CMD…: sets `status` to its exit code. Ctrl-C reaches it as without this script; SIGTERM is passed on.
run() {
    trap 'stop_command 130' INT
    trap 'stop_command 143' TERM
    trap 'stop_command 129' HUP
    # What bash starts beside itself ignores SIGINT and reads nothing; not so here.
    (
        trap - INT QUIT
        exec "$@"
    ) <&0 &
    command_pid=$!
    status=0
    wait "$command_pid" || status=$?
}

# The data is thrown away, so nobody waits for a clean stop. The end of a server that a test has paused comes too.
stop_all() {
    trap '' INT TERM HUP
    local pid
    for pid in "${servers[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    for pid in "${servers[@]}"; do until_gone "$pid" || true; done
    if [ -n "$directory" ]; then rm -rf "$directory"; fi
}

# The settings with which an acknowledged commit survives a power cut, in little memory.
durable=(
    --innodb-flush-log-at-trx-commit=1 --innodb-doublewrite=1 --innodb-buffer-pool-size=256M
    --max-connections=300 --max-allowed-packet=64M
)

# new_mariadb DATA: an empty database whose root has no password.
new_mariadb() {
    server_directory "$1"
    "${as_server[@]}" mariadb-install-db --no-defaults --datadir="$1" --auth-root-authentication-method=normal \
        --skip-test-db --skip-name-resolve >"$directory/install.log" 2>&1 </dev/null || {
        cat "$directory/install.log" >&2
        die "mariadb-install-db has not made a database"
    }
}

# ping_mariadb DATA: over the socket, so that no other server on that port can answer.
ping_mariadb() {
    mariadb-admin --no-defaults --user=root --socket="$1/s.sock" --connect-timeout=2 ping
}
