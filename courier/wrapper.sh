# Runs an agent between four FIFOs: sh -c SCRIPT berth COMMAND... (dash, busybox ash, bash).
# Environment: BERTH_PIPES, the folder of the FIFOs; BERTH_STOP_GRACE, seconds between SIGTERM and SIGKILL;
# BERTH_CGROUP, where the container's own cgroup is mounted, empty if it has none of its own.
p=$BERTH_PIPES
cgroup=${BERTH_CGROUP-/sys/fs/cgroup}
grace=${BERTH_STOP_GRACE:-10}
agent='' status='' asked='' killer=''

# Not every sleep knows fractions.
nap() { sleep 0.05 2>/dev/null || sleep 1; }

# signal NAME: to the agent's process group, or at least to the agent.
signal() {
    kill -s "$1" -- "-$agent" 2>/dev/null || kill -s "$1" "$agent" 2>/dev/null
}

# The killer ends its own sleep when it is told to, so that nothing outlives the wrapper.
stop() {
    asked=1
    if [ -z "$status" ] && [ -n "$agent" ]; then
        signal TERM
        [ -n "$killer" ] || {
            ( trap 'kill "$nap"; exit' TERM
              sleep "$grace" & nap=$!
              wait "$nap"; signal KILL ) </dev/null >/dev/null 2>&1 3>&- 4<&- 5>&- 6>&- 7>&- &
            killer=$!
        }
    fi
}

trap 'exit 143' TERM INT HUP
until [ -p "$p/in" ] && [ -p "$p/out" ] && [ -p "$p/err" ] && [ -p "$p/ctl" ]; do nap; done

# Held read-write, so that a courier that dies and returns costs neither a signal nor a byte. The agent's input is held
# by the reader of ctl alone (3), which lets go of it at `eof`; 4 is what the agent reads, opened before that can happen.
exec 3<>"$p/in" 5<>"$p/out" 6<>"$p/err" 7<>"$p/ctl"
exec 4<"$p/in"
trap stop TERM INT HUP

# A group of its own by setsid, or by job control where there is none (dash has no job control without a terminal).
if command -v setsid >/dev/null 2>&1; then
    setsid "$@" <&4 >"$p/out" 2>"$p/err" 3>&- 4<&- 5>&- 6>&- 7>&- &
    agent=$!
else
    set -m 2>/dev/null
    "$@" <&4 >"$p/out" 2>"$p/err" 3>&- 4<&- 5>&- 6>&- 7>&- &
    agent=$!
    set +m 2>/dev/null
fi
[ -z "$asked" ] || stop # SIGTERM came before there was an agent

# One word a line. The group's SIGTERM must not end the reader, since it holds the agent's input.
(
    trap '' TERM INT HUP
    exec </dev/null >/dev/null 2>&1 4<&- 5>&- 6>&-
    while read -r word <&7; do
        case $word in
            eof) exec 3>&- ;;
            term) kill -s TERM $$ ;;
            kill) signal KILL ;;
        esac
    done
) &
reader=$!
exec 3>&-
# Tell the courier that the FIFOs are held; read-write, since a FIFO without a reader would block.
[ -p "$p/bell" ] && echo 1<>"$p/bell"

# A trap ends `wait` early; then wait again. 127 for the second time means that the status was had already.
again=''
while :; do
    asked=''
    wait "$agent"
    code=$?
    [ -n "$again" ] && [ "$code" -eq 127 ] && break
    status=$code
    [ -n "$asked" ] || break
    status='' again=$code
done
status=${status:-$again}
trap : TERM INT HUP
kill -s KILL -- "-$agent" 2>/dev/null # what the agent left behind
[ -z "$killer" ] || kill -s TERM "$killer" 2>/dev/null
kill -s KILL "$reader" 2>/dev/null

# The most memory that was used, in bytes: version 2 of cgroups, version 1.
peak=''
[ -z "$cgroup" ] || read -r peak 2>/dev/null <"$cgroup/memory.peak" ||
    read -r peak 2>/dev/null <"$cgroup/memory/memory.max_usage_in_bytes"
[ -z "$peak" ] || echo "$peak" >"$p/peak"

echo "$status" >"$p/exit.new" && mv -f "$p/exit.new" "$p/exit"
[ -p "$p/bell" ] && echo 1<>"$p/bell"
tries=0
until [ -e "$p/drained" ] || [ "$tries" -ge 400 ]; do # 20 s
    nap
    tries=$((tries + 1))
done
exit "$status"
