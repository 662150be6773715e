#!/bin/sh
# What README.md promises and the tree can do, one thing after the other, over a mounted tree that has no container yet:
#
#     tests/walkthrough.sh MOUNTPOINT [DIRECTORY]
#
# Each line is printed before it runs; the first that surprises ends it. DIRECTORY holds a root file system with systemd, if there is one.
set -eu

cd "$1"
systemd=${2:-}
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
exec 2>&1

fail() {
    echo "walkthrough: $*"
    exit 1
}
is() { # is TEXT EXPECTED
    [ "$1" = "$2" ] || fail "expected <$2>, got <$1>"
}
has() { # has TEXT PART
    case "$1" in *"$2"*) ;; *) fail "expected something with <$2>, got <$1>" ;; esac
}
refused() { # refused COMMAND ERRORFILE WORDS: it fails, and the file tells why
    if (eval "$1") > /dev/null 2>&1; then fail "<$1> was not refused"; fi
    has "$(cat "$2")" "$3"
}
new() { # new NAME COMMAND
    mkdir "containers/$1"
    echo busybox > "containers/$1/image"
    echo "$2" > "containers/$1/command"
}
run() { # run NAME COMMAND: its output, by an exec
    mkdir "containers/$1/exec/run"
    echo "$2" > "containers/$1/exec/run/command"
    echo start > "containers/$1/exec/run/ctl"
    cat "containers/$1/exec/run/wait" > "$T/code"
    cat "containers/$1/exec/run/log"
    rmdir "containers/$1/exec/run"
    return "$(cat "$T/code")"
}
gone() { # gone NAME...: ended and removed
    for name; do
        case $(cat "containers/$name/state") in created | exited) ;; *) echo kill > "containers/$name/ctl" ;; esac
        rmdir "containers/$name"
    done
}
set -v

# A first container

cat version
grep -e kernel -e cgroup info
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

# limits by either name, for this shell too
is "$(cat containers/web/cgroup/cpu.cfs_period_us)" 100000
echo 20000 > containers/web/cgroup/cpu.cfs_quota_us
is "$(cat containers/web/cgroup/cpu.max)" "20000 100000"
(sh -c 'echo $$ > containers/web/cgroup/tasks; grep -qx $$ containers/web/cgroup/cgroup.procs')

# the words of a failure, and the name that was meant
refused 'echo 512M > containers/web/memory.max' containers/web/error "did you mean cgroup/memory.max?"

# a look inside, from outside
[ -x containers/web/rootfs/bin/busybox ]

# 1. spec.toml: the whole of the settings, both ways

mkdir containers/copy
cp containers/web/spec.toml containers/copy/spec.toml
cmp containers/web/spec.toml containers/copy/spec.toml
sed -i 's/hello/goodbye/' containers/copy/command
has "$(cat containers/copy/spec.toml)" "goodbye"
sed -i 's/goodbye/hello/' containers/copy/spec.toml
cmp containers/web/spec.toml containers/copy/spec.toml
printf 'hostname = "other"\nhostnam = "x"\n' > "$T/bad.toml"
refused 'cp $T/bad.toml containers/copy/spec.toml' containers/copy/error "line 2"
has "$(cat containers/copy/error)" "hostname"
cmp containers/web/spec.toml containers/copy/spec.toml
rsync -aR containers/./*/spec.toml "$T/settings/"
git -C "$T/settings" init -q
git -C "$T/settings" add .
git -C "$T/settings" -c user.name=me -c user.email=me@example.org commit -qm settings
echo from-the-tree > containers/copy/hostname
rsync -acR containers/./*/spec.toml "$T/settings/"
has "$(git -C "$T/settings" diff)" '+hostname = "from-the-tree"'
git -C "$T/settings" checkout -q .
rsync -ac --exclude=.git "$T/settings/" containers/
cmp containers/web/spec.toml containers/copy/spec.toml
mv containers/copy containers/other
gone other web

# 2. Volumes come and go while it runs; a named one outlives it

new live 'sleep 1000'
ln -s ../../../../.. containers/live/rootfs/out
echo start > containers/live/ctl
mkdir volumes/db "$T/data"
echo from-outside > "$T/data/note"
echo db:/var/lib/db >> containers/live/volumes
echo "$T/data:/data:ro,rprivate" >> containers/live/volumes
echo "$T/data/note:/etc/note" >> containers/live/volumes
is "$(run live 'cat /data/note /etc/note')" "from-outside
from-outside"
has "$(run live 'touch /data/x' || true)" "Read-only file system"
run live 'touch /var/lib/db/kept'
is "$(ls volumes/db/used_by)" live
[ -e volumes/db/data/kept ]
echo tier=1 > volumes/db/labels
refused 'rmdir volumes/db' volumes/db/error live
mv volumes/db volumes/store
has "$(cat containers/live/volumes)" store:/var/lib/db
echo "$T/data:/out/inside" >> containers/live/volumes
[ ! -e /inside ]
is "$(run live 'cat /inside/note')" from-outside
cat containers/live/volumes
echo -/out/inside >> containers/live/volumes
echo -/data >> containers/live/volumes
echo -/etc/note >> containers/live/volumes
echo -/var/lib/db >> containers/live/volumes
is "$(cat containers/live/volumes)" ""
[ ! -e volumes/store/used_by/live ]
rmdir volumes/store
mkdir volumes/conf
new filled 'true'
echo conf:/etc > containers/filled/volumes
echo start > containers/filled/ctl
is "$(cat containers/filled/wait)" 0
grep root: volumes/conf/data/passwd
gone filled
rmdir volumes/conf

# 3. What it changed, what it uses, what it is told

run live 'touch /etc/new'
has "$(cat containers/live/changes)" "A /etc/new"
grep -e memory_bytes -e cpu_usec containers/live/stats
echo hunter2 > containers/live/secrets/password
is "$(run live 'cat /run/secrets/password')" hunter2
is "$(grep -l hunter2 containers/live/spec.toml containers/live/inspect.json || true)" ""
printf 'A=1\nB=two words\n' > "$T/env"
new told 'sh -c "echo $B; ps; cat /proc/self/uid_map; hostname; readlink /proc/self/ns/ipc"'
cp "$T/env" containers/told/env
echo team=store > containers/told/labels
echo 1 > containers/told/init
echo auto > containers/told/userns
echo told > containers/told/hostname
echo start > containers/told/ctl
is "$(cat containers/told/wait)" 0
cat containers/told/log
has "$(cat containers/told/log)" "two words"
has "$(cat containers/told/log)" docker-init
has "$(cat containers/told/log)" 65536
gone told
new guest 'sh -c "ps; hostname"'
echo container:live > containers/guest/pid_mode
echo start > containers/guest/ctl
is "$(cat containers/guest/wait)" 0
has "$(cat containers/guest/log)" "sleep 1000"
gone guest live
new machine 'sh -c "hostname; ls /proc | grep -c ^1$; readlink /proc/self/ns/pid"'
echo host > containers/machine/image
for mode in pid_mode ipc_mode uts_mode; do echo host > containers/machine/$mode; done
echo start > containers/machine/ctl
is "$(cat containers/machine/wait)" 0
is "$(cat containers/machine/log)" "$(hostname; echo 1; readlink /proc/self/ns/pid)"
is "$(ls containers/machine/rootfs/home 2> /dev/null || true)" ""
gone machine

# one that goes by itself
new once 'sh -c "exit 5"'
echo 1 > containers/once/autoremove
exec 3< containers/once/wait
echo start > containers/once/ctl
is "$(cat <&3)" 5
exec 3<&-
[ ! -e containers/once ]

# 4. Further processes in a container

new box 'sleep 1000'
echo A=of-the-container > containers/box/env
echo start > containers/box/ctl
is "$(run box 'sh -c "echo $A; id -u; ls /proc/self/fd | wc -l"')" "of-the-container
0
4"
mkdir containers/box/exec/mine
echo 'sh -c "echo $A; id -u; pwd; exit 9"' > containers/box/exec/mine/command
echo A=mine > containers/box/exec/mine/env
echo nobody > containers/box/exec/mine/user
echo /etc > containers/box/exec/mine/workdir
echo start > containers/box/exec/mine/ctl
is "$(cat containers/box/exec/mine/wait)" 9
is "$(cat containers/box/exec/mine/log)" "mine
65534
/etc"
for i in 1 2 3 4 5 6 7 8; do
    mkdir containers/box/exec/e$i
    echo "sh -c 'exit $i'" > containers/box/exec/e$i/command
    echo start > containers/box/exec/e$i/ctl
done
is "$(echo $(cat containers/box/exec/e?/wait))" "1 2 3 4 5 6 7 8"
mkdir containers/box/exec/long
echo 'sleep 1000' > containers/box/exec/long/command
echo start > containers/box/exec/long/ctl
echo kill > containers/box/exec/long/ctl
is "$(cat containers/box/exec/long/exit_code)" 137
gone box

# 5. Streams, pipelines and terminals

new upper 'tr a-z A-Z'
new count 'sh -c "seq 3; echo done; echo aside >&2"'
echo start > containers/upper/ctl
exec 3< containers/count/stdout 4< containers/count/stderr 5< containers/count/stdout
echo start > containers/count/ctl
cat <&3 > containers/upper/stdin
is "$(cat <&4)" aside
is "$(cat <&5 | tail -n 1)" done
exec 3<&- 4<&- 5<&-
echo pause > containers/upper/ctl
is "$(cat containers/upper/state)" paused
echo resume > containers/upper/ctl
echo eof > containers/upper/ctl
is "$(cat containers/upper/wait)" 0
is "$(tail -n 1 containers/upper/log)" DONE
gone upper count
new terminal sh
echo 1 > containers/terminal/tty
echo start > containers/terminal/ctl
echo resize 33 99 > containers/terminal/ctl
printf 'stty size\nexit 4\n' | socat -t 9 - containers/terminal/console > "$T/screen"
is "$(cat containers/terminal/wait)" 4
grep -q '33 99' "$T/screen"
gone terminal

# 6. Restart policies and health

new flaky 'sh -c "echo run; exit 1"'
echo on-failure:2 > containers/flaky/restart
echo start > containers/flaky/ctl
is "$(cat containers/flaky/wait)" 1
is "$(grep -c run containers/flaky/log)" 3
gone flaky
new well 'sleep 1000'
echo always > containers/well/restart
echo 'test -e /ready' > containers/well/health/command
echo 100ms > containers/well/health/interval
echo 20 > containers/well/health/retries
echo start > containers/well/ctl
is "$(cat containers/well/health/status)" starting
run well 'touch /ready'
is "$(cat containers/well/health/wait)" healthy
kill -9 "$(cat containers/well/pid)"
while [ "$(cat containers/well/health/status)" != healthy ] || [ "$(grep -c '"well", "action": "restart"' journal)" = 0 ]; do sleep 0.1; done
rm containers/well/rootfs/ready
until [ "$(cat containers/well/health/status)" = unhealthy ]; do sleep 0.1; done
echo stop 0 > containers/well/ctl
is "$(cat containers/well/state)" exited
gone well

# 7. systemd as the first process, unprivileged

if [ -n "$systemd" ]; then
    new debian ''
    : > containers/debian/command
    echo "$systemd" > containers/debian/image
    echo 1 > containers/debian/systemd
    echo 256M > containers/debian/cgroup/memory.max
    echo start > containers/debian/ctl
    until [ "$(run debian 'systemctl is-system-running')" = running ]; do sleep 0.5; done
    run debian 'systemctl --no-pager status' | head -n 5
    echo stop 100 > containers/debian/ctl
    is "$(cat containers/debian/exit_code)" 0
    gone debian
fi

# 8. Images: from a container, as an archive, and back

new web 'sleep 1000'
echo start > containers/web/ctl
run web 'sh -c "echo hello > /greeting; rm /etc/group"'
echo 'commit app:1 message="with a greeting" author=me cmd="cat /greeting"' > containers/web/ctl
is "$(cat containers/web/state)" running
gone web
is "$(cat images/app:1/author)" me
has "$(cat images/app:1/history)" "with a greeting"
is "$(wc -l < images/app:1/layers)" 2
has "$(cat images/app:1/waste)" /etc/group
ln -s app:1 images/app:stable
is "$(cat images/app:stable/id)" "$(cat images/app:1/id)"
cp images/app:1/archive.tar "$T/app.tar"
is "$(stat -c %s "$T/app.tar")" "$(stat -c %s images/app:1/archive.tar)"
id=$(cat images/app:1/id)
rmdir images/app:1 images/app:stable
gzip "$T/app.tar"
cp "$T/app.tar.gz" images/
is "$(cat images/app:1/id)" "$id"
head -c 1000 "$T/app.tar.gz" > "$T/bad.tar"
refused 'cp $T/bad.tar images/' errors "can't be loaded"
echo squash app:flat > images/app:1/ctl
is "$(wc -l < images/app:flat/layers)" 1
is "$(cat images/app:flat/waste)" "0 total"
mkdir containers/greeter
echo app:flat > containers/greeter/image
echo start > containers/greeter/ctl
is "$(cat containers/greeter/wait)" 0
is "$(cat containers/greeter/log)" hello
is "$(ls images/app:flat/containers)" greeter
refused 'rmdir images/app:flat' errors greeter
[ ! -e containers/greeter/rootfs/etc/group ]
gone greeter

# and to a registry, if there is one to be started

if command -v docker-registry > /dev/null; then
    R=127.0.0.1:5055
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "%s"}\n' "$T/registry" "$R" > "$T/registry.yml"
    docker-registry serve "$T/registry.yml" > "$T/registry.log" 2>&1 &
    registry=$!
    mkdir registries/$R
    echo 1 > registries/$R/insecure
    until cat registries/$R/catalog 2> /dev/null; do sleep 0.1; done
    echo push $R/team/app:1 > images/app:flat/ctl
    is "$(cat registries/$R/catalog)" team/app
    is "$(cat registries/$R/repositories/team/app/tags)" 1
    digest=$(cat images/app:flat/digest)
    rmdir images/app:flat
    echo gc > ctl
    echo pull $R/team/app@$digest > images/ctl
    echo pull $R/team/app:1 > images/ctl
    is "$(cat images/$R/team/app:1/digest)" "$digest"
    has "$(cat images/$R/team/app:1/rootfs/greeting)" hello
    refused 'echo pull $R/team/app:2 > images/ctl' errors "no such image"
    refused 'echo login > registries/$R/ctl' registries/$R/error username
    is "$(cat images/progress)" ""
    rmdir images/$R/team/app:1 images/$R/team/app@$digest images/$R/team images/$R registries/$R
    kill $registry
else
    rmdir images/app:flat
fi
rmdir images/app:1

# 9. Networks: four modes, networks of one's own, the way out, the way in, names

is "$(ls networks)" "bridge
host
none
ports"
new web 'nc -ll -p 80 -e echo hello from web'
is "$(cat containers/web/network)" bridge
echo start > containers/web/ctl
new quiet 'ip -o link'
echo none > containers/quiet/network
echo start > containers/quiet/ctl
is "$(cat containers/quiet/wait)" 0
is "$(wc -l < containers/quiet/log)" 1 # lo
echo host > containers/quiet/network
is "$(ls networks/host/members)" quiet
echo start > containers/quiet/ctl
is "$(cat containers/quiet/wait)" 0
has "$(cat containers/quiet/log)" pd- # the machine's, with its bridges
new joined 'cat /sys/class/net/eth0/address'
echo container:web > containers/joined/network
echo start > containers/joined/ctl
is "$(cat containers/joined/wait)" 0
has "$(cat containers/web/address)" "$(cat containers/joined/log)"
refused 'echo container:joined > containers/joined/network' containers/joined/error "can't join itself"
gone quiet joined

mkdir networks/front networks/back
echo 10.66.0.0/24 > networks/front/subnet
echo 1 > networks/back/internal
refused 'echo 10.66.0.128/25 > networks/back/subnet' networks/back/error "networks/front"
new db 'nc -ll -p 5432 -e echo 42 rows'
echo 'back alias=database' > containers/db/network
echo start > containers/db/ctl
echo 'front ip=10.66.0.66' > containers/web/network # while it runs; out of bridge with it
has "$(cat containers/web/address)" "front 10.66.0.66/24"
ln -s ../../../containers/web networks/back/members/web
is "$(cat containers/web/network)" "front ip=10.66.0.66
back"
grep database networks/back/names
refused 'rmdir networks/back' networks/back/error "in use by"
is "$(run db 'ip route' | grep default || true)" "" # internal: there is no way out
has "$(run web 'ip route')" "default via 10.66.0.1"
has "$(cat networks/front/rules)" masquerade
has "$(run db 'cat /etc/resolv.conf')" "nameserver $(cat networks/back/gateway)"
echo printer 192.0.2.9 > containers/db/hosts
is "$(run db 'tail -n 1 /etc/hosts')" "192.0.2.9	printer"
new client 'socat -u TCP:database:5432 -'
echo host > containers/client/image
echo back > containers/client/network
until echo start > containers/client/ctl && [ "$(cat containers/client/wait)" = 0 ]; do sleep 0.1; done
is "$(tail -n 1 containers/client/log)" "42 rows"
gone client

echo 8066:80 > containers/web/ports # while it runs, as everything here
until [ "$(socat -u TCP:127.0.0.1:8066 - 2> /dev/null)" = "hello from web" ]; do sleep 0.1; done
is "$(cat containers/web/ports.bound)" 8066:80/tcp
is "$(readlink networks/ports/tcp:0.0.0.0:8066)" ../../containers/web
refused 'echo 8066:5432 > containers/db/ports' containers/db/error "taken by container web"
mv networks/front networks/edge
is "$(head -n 1 containers/web/network)" "edge ip=10.66.0.66"
rm networks/edge/members/web
is "$(cat containers/web/network)" back
gone web db
echo prune networks > ctl
is "$(ls networks)" "bridge
host
none
ports"

# Several at once, and none is left

for i in 1 2 3; do
    new job$i "sh -c 'sleep 0.$i; exit $i'"
    echo start > containers/job$i/ctl
done
grep . containers/job?/wait
grep -lx exited containers/*/state | xargs dirname | xargs rmdir
is "$(ls containers)" ""
set +v
echo "walkthrough: all well"
