# The servers that the tests use: in private folders and on free ports, stopped at the end. Read by infra/dev.
# start_servers exports TEST_REDIS_URL, TEST_DATABASE_URL and TEST_AMQP_URL; what it cannot start it tells skip().

as_postgres() {
  if is_root; then su postgres -s /bin/sh -c "cd / && $1"; else sh -c "$1"; fi
}

start_servers() {
  servers=$(mktemp -d)
  chmod 755 "$servers"
  trap 'status=$?; stop_servers; exit $status' EXIT
  trap 'exit 130' INT TERM
  start_redis
  start_postgres
  start_rabbitmq
}

free_port() {
  $bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start_redis() {
  command -v redis-server >/dev/null 2>&1 || apt_install redis-server || {
    skip "tests on Redis" "install redis-server"
    return
  }
  port=$(free_port)
  redis-server --port "$port" --bind 127.0.0.1 --save '' --appendonly no --daemonize yes \
    --dir "$servers" --pidfile "$servers/redis.pid" >/dev/null
  export TEST_REDIS_URL="redis://127.0.0.1:$port/0"
}

start_postgres() {
  find_pg() { pg=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1); [ -x "$pg/initdb" ]; }
  find_pg || { apt_install postgresql && find_pg; } || {
    skip "tests on Postgres" "install postgresql"
    return
  }
  port=$(free_port)
  mkdir "$servers/pg"
  is_root && chown postgres "$servers/pg"
  as_postgres "'$pg/initdb' -D '$servers/pg/data' -A trust -U headshots >/dev/null &&
    '$pg/pg_ctl' -s -w -D '$servers/pg/data' -l '$servers/pg/log' \
    -o '-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$servers/pg -c fsync=off' start" || {
    skip "tests on Postgres" "it is installed but did not start"
    return
  }
  export TEST_DATABASE_URL="postgres://headshots@127.0.0.1:$port/postgres"
}

# A node of its own: folders, name, cookie and ports, so that a RabbitMQ of this machine is not touched.
start_rabbitmq() {
  find_rabbit() { rabbit=$(command -v rabbitmq-server || ls /usr/lib/rabbitmq/bin/rabbitmq-server 2>/dev/null); }
  find_rabbit || { apt_install rabbitmq-server && find_rabbit; } || {
    skip "tests on RabbitMQ" "install rabbitmq-server"
    return
  }
  port=$(free_port)
  mkdir "$servers/rabbit"
  echo "loopback_users = none" >"$servers/rabbit/rabbitmq.conf"
  : >"$servers/rabbit/plugins"
  epmd_port=$(free_port)
  rabbit_environment="HOME=$servers/rabbit RABBITMQ_NODENAME=headshots-$port@localhost ERL_EPMD_PORT=$epmd_port
    RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT=$port RABBITMQ_DIST_PORT=$(free_port)
    RABBITMQ_MNESIA_BASE=$servers/rabbit RABBITMQ_LOG_BASE=$servers/rabbit RABBITMQ_PID_FILE=$servers/rabbit/pid
    RABBITMQ_CONFIG_FILE=$servers/rabbit/rabbitmq.conf RABBITMQ_ENABLED_PLUGINS_FILE=$servers/rabbit/plugins"
  if is_root; then
    chown -R rabbitmq "$servers/rabbit"
    su rabbitmq -s /bin/sh -c "cd / && env $(echo $rabbit_environment) '$rabbit' >'$servers/rabbit/out' 2>&1 &"
  else
    env $rabbit_environment "$rabbit" >"$servers/rabbit/out" 2>&1 &
  fi
  for second in $(seq 60); do
    ! $bin/python -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null || {
      export TEST_AMQP_URL="amqp://guest:guest@127.0.0.1:$port//"
      return
    }
    sleep 1
  done
  skip "tests on RabbitMQ" "it is installed but did not start"
}

# Whatever one of them answers, the others are stopped as well, and the status of the script stays what it was.
stop_servers() {
  set +e
  stop_rabbitmq
  [ ! -s "$servers/redis.pid" ] || kill "$(cat "$servers/redis.pid")"
  [ ! -d "$servers/pg/data" ] || as_postgres "'$pg/pg_ctl' -s -m immediate -D '$servers/pg/data' stop"
  rm -rf "$servers"
}

# The node takes its pid file away before it ends, and its epmd refuses to end while it knows of a node.
stop_rabbitmq() {
  [ -d "$servers/rabbit" ] || return
  node=$(cat "$servers/rabbit/pid" 2>/dev/null)
  [ -z "$node" ] || kill "$node"
  for tenth in $(seq 300); do
    kill -0 "$node" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$node" 2>/dev/null
  for tenth in $(seq 100); do
    ERL_EPMD_PORT=$epmd_port epmd -kill >/dev/null 2>&1
    ERL_EPMD_PORT=$epmd_port epmd -names >/dev/null 2>&1 || return
    sleep 0.1
  done
  say "The epmd of the tests' RabbitMQ did not end (port $epmd_port)"
}
