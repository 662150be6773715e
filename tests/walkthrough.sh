#!/bin/sh
# What README.md promises, line by line, over a mounted tree: `tests/walkthrough.sh MOUNTPOINT`.
set -eu

cd "$1"
is() {
    if [ "$1" != "$2" ]; then
        echo "walkthrough: expected <$2>, got <$1>" >&2
        exit 1
    fi
}

mkdir containers/web
echo busybox > containers/web/image
echo 'sh -c "echo hello; sleep 0.2; exit 7"' > containers/web/command
echo 64M > containers/web/cgroup/memory.max
echo start > containers/web/ctl
is "$(cat containers/web/wait)" 7
is "$(cat containers/web/log)" hello
is "$(cat containers/web/exit_code)" 7
is "$(cat containers/web/state)" exited

# lists: > replaces, >> adds, -ITEM takes away
echo A=1 > containers/web/env
echo B=2 >> containers/web/env
echo -A >> containers/web/env
is "$(cat containers/web/env)" B=2

# limits by either name
is "$(cat containers/web/cgroup/cpu.cfs_period_us)" 100000
echo 20000 > containers/web/cgroup/cpu.cfs_quota_us
is "$(cat containers/web/cgroup/cpu.max)" "20000 100000"
(
    sh -c 'echo $$ > containers/web/cgroup/tasks; grep -qx $$ containers/web/cgroup/cgroup.procs'
)

# the words of a failure, and the name that was meant
if echo 512M 2> /dev/null > containers/web/memory.max; then exit 1; fi
case "$(cat containers/web/error)" in *cgroup/memory.max*) ;; *) exit 1 ;; esac

# copying and editing settings with the usual tools
mkdir containers/copy
cp containers/web/spec.toml containers/copy/spec.toml
cmp containers/web/spec.toml containers/copy/spec.toml
sed -i 's/hello/goodbye/' containers/copy/command
case "$(cat containers/copy/command)" in *goodbye*) ;; *) exit 1 ;; esac
mv containers/copy containers/other

# stdin, pause, stop
echo cat > containers/other/command
echo start > containers/other/ctl
echo a line > containers/other/stdin
echo pause > containers/other/ctl
is "$(cat containers/other/state)" paused
echo resume > containers/other/ctl
echo eof > containers/other/ctl
is "$(cat containers/other/wait)" 0
is "$(cat containers/other/log)" "a line"

# a look inside, from outside
[ -x containers/other/rootfs/usr/bin/env ] || [ -x containers/other/rootfs/bin/busybox ]

# volumes come and go while it runs; a named one outlives it
mkdir volumes/db
mkdir containers/live
echo busybox > containers/live/image
echo 'sleep 1000' > containers/live/command
echo start > containers/live/ctl
echo db:/var/lib/db >> containers/live/volumes
touch "/proc/$(cat containers/live/pid)/root/var/lib/db/kept"
is "$(ls volumes/db/data)" kept
is "$(ls volumes/db/used_by)" live
if rmdir volumes/db 2> /dev/null; then exit 1; fi
case "$(cat volumes/db/error)" in *live*) ;; *) exit 1 ;; esac
mv volumes/db volumes/data
is "$(cat containers/live/volumes)" data:/var/lib/db
echo -/var/lib/db >> containers/live/volumes
is "$(cat containers/live/volumes)" ""

# a secret is seen inside at once and is in no document
echo hunter2 > containers/live/secrets/password
is "$(cat "/proc/$(cat containers/live/pid)/root/run/secrets/password")" hunter2
if grep -r hunter2 containers/live/spec.toml containers/live/inspect.json; then exit 1; fi

# what it changed, what it uses
touch "/proc/$(cat containers/live/pid)/root/etc/new"
is "$(grep /etc/new containers/live/changes)" "A /etc/new"
grep -q '^memory_bytes [0-9]' containers/live/stats
echo kill > containers/live/ctl
rmdir containers/live volumes/data

# one that goes by itself
mkdir containers/once
echo busybox > containers/once/image
echo 'sh -c "exit 5"' > containers/once/command
echo 1 > containers/once/autoremove
exec 3< containers/once/wait
echo start > containers/once/ctl
is "$(cat <&3)" 5
exec 3<&-
[ ! -e containers/once ]

rmdir containers/web containers/other
is "$(ls containers)" ""
echo "walkthrough: all well"
