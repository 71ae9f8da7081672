"""The dashboard of single nodes: their cores, queues, transports, and what they do with the kernel."""

from panel import BAD, panel, stat, table

C = 'job="$job", instance=~"$instance"'


def rate(metric, labels="", by="instance"):
    """Per second."""
    chosen = f"{C}, {labels}" if labels else C
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


def total(metric, by="instance"):
    """A gauge, summed over cores."""
    return f"sum by ({by}) ({metric}{{{C}}})"


def lines(*metrics, by="instance"):
    """Rates of several metrics, with a word for each."""
    return [(rate(metric, by=by), "{{instance}} " + word) for metric, word in metrics]


OVERVIEW = [
    stat("Ready", "Whether the nodes take clients.", "bool_yes_no", f"min(roadstead_ready{{{C}}})"),
    stat("Up since", "Start of the process.", "dateTimeFromNow", f"1000 * max(process_start_time_seconds{{{C}}})"),
    stat("Connections", "Connections open.", "short", f"sum(roadstead_connections{{{C}}})"),
    stat("Sessions here", "Sessions whose home is here, connected or not.", "short", f"sum(roadstead_sessions{{{C}}})"),
    stat("Subscriptions", "Entries owned here.", "short", f"sum(roadstead_subscriptions{{{C}}})"),
    stat("Engine failing", "1 when the engine stores nothing.", "none", f'sum(1 - roadstead_engine_state{{{C}, state="working"}})', BAD),
]

CORES = [
    panel("Connections by core", "Uneven: few clients, or a load balancer with few addresses.", "short", (total("roadstead_connections", "instance, core"), "{{instance}} {{core}}"), stacked=True),
    panel("Turns by core", "Rounds of the event loop. A core that does none is stuck, or sleeps.", "ops", (rate("roadstead_turns_total", by="instance, core"), "{{instance}} {{core}}")),
    panel("CPU of the process", "CPUs in use.", "short", (rate("process_cpu_seconds_total"), "{{instance}}")),
    panel("Sessions by core", "Whose home is the core.", "short", (total("roadstead_sessions", "instance, core"), "{{instance}} {{core}}"), stacked=True),
    panel("Between cores", "Messages that crossed from core to core, and times that a core took no more.", "ops",
          *lines(("roadstead_mesh_sent_total", "sent"), ("roadstead_mesh_full_total", "full"))),
    table("Hottest roots", "A root is the work of one core. Much hotter than the others: split its topics, or give them a deeper root.", "short",
          (f"topk(10, sum by (root) (roadstead_root_publishes{{{C}}}))", ""), width=8, height=8),
]

MESSAGES = [
    panel("Packets", "Packets of MQTT in and out.", "ops", *lines(("roadstead_packets_received_total", "in"), ("roadstead_packets_sent_total", "out"))),
    panel("Where messages end", "Delivered, dropped and expired.", "ops",
          *lines(("roadstead_deliveries_delivered_total", "delivered"), ("roadstead_deliveries_dropped_total", "dropped"), ("roadstead_deliveries_expired_total", "expired"))),
    panel("Publishes that went nowhere", "Refused, denied by rules, without a subscriber, or dropped on the way to another core.", "ops",
          *lines(("roadstead_publishes_refused_total", "refused"), ("roadstead_publishes_denied_total", "denied"),
                 ("roadstead_publishes_unmatched_total", "unmatched"), ("roadstead_publishes_dropped_total", "dropped"))),
    panel("Drops by reason", "The runbook of RoadsteadDropping explains the reasons.", "ops", (rate("roadstead_deliveries_dropped_total", by="reason"), "{{reason}}"), stacked=True),
    panel("Retained messages", "Kept here.", "short", (total("roadstead_retained_messages"), "{{instance}}")),
    panel("Work queues", "Messages of shared subscriptions that nobody could take yet.", "short", (total("roadstead_group_queue_messages"), "{{instance}}")),
]

QUEUES = [
    panel("Bytes in queues", "Queued for clients, waiting for acknowledgement, and encoded but not taken by the kernel.", "bytes",
          (total("roadstead_queued_bytes"), "{{instance}} queued"), (total("roadstead_pending_bytes"), "{{instance}} pending"),
          (total("roadstead_io_unsent_bytes"), "{{instance}} unsent")),
    panel("Deliveries waiting", "Accepted and not yet delivered.", "short", (total("roadstead_deliveries_queued"), "{{instance}}")),
    panel("Clients held back", "Times that a client was not read for a while, because of a bound or its rate.", "ops",
          *lines(("roadstead_pauses_total", "bound"), ("roadstead_throttles_total", "rate"))),
    panel("Clients that were too slow or broke rules", "Disconnected.", "ops",
          *lines(("roadstead_slow_consumers_disconnected_total", "slow"), ("roadstead_keep_alive_timeouts_total", "keep-alive"),
                 ("roadstead_protocol_violations_total", "violation"), ("roadstead_connect_timeouts_total", "no CONNECT"))),
    panel("Crowd at the door", "Connections that wait in the kernel to be accepted.", "short", (total("roadstead_accept_backlog", "instance, core"), "{{instance}} {{core}}")),
    panel("Turned away by reason", "At a bound of who may come in.", "ops", (rate("roadstead_turned_away_total", by="reason"), "{{reason}}"), stacked=True),
]

TRANSPORTS = [
    panel("TLS handshakes", "Completed, by kind, and failed.", "ops",
          (rate("roadstead_tls_handshakes_total", by="kind"), "{{kind}}"), (f"sum(rate(roadstead_tls_handshakes_failed_total{{{C}}}[$__rate_interval]))", "failed")),
    panel("TLS failures by reason", "Why clients did not get in by TLS.", "ops", (rate("roadstead_tls_handshakes_failed_total", by="reason"), "{{reason}}"), stacked=True),
    panel("Certificates", "When each ends.", "dateTimeFromNow", (f"1000 * min by (file) (roadstead_tls_certificate_not_after_seconds{{{C}}})", "{{file}}"), kind="stat"),
    panel("QUIC connections", "Open, with those that are closing.", "short", (total("roadstead_quic_connections"), "{{instance}}")),
    panel("QUIC handshakes", "Completed, by kind, and failed.", "ops",
          (rate("roadstead_quic_handshakes_total", by="kind"), "{{kind}}"), (f"sum(rate(roadstead_quic_handshakes_failed_total{{{C}}}[$__rate_interval]))", "failed")),
    panel("QUIC on the move", "Clients that went on at another address, and those that had to prove theirs first.", "ops",
          *lines(("roadstead_quic_migrations_total", "migrations"), ("roadstead_quic_retries_total", "retries"))),
]

ACCESS = [
    panel("Answers about clients", "Of passwords, tokens and the HTTP service. `unavailable` is a service or its keys out of reach.", "ops",
          (rate("roadstead_access_answers_total", by="method, result"), "{{method}} {{result}}"), stacked=True),
    panel("Questions waiting", "Clients that wait to be checked.", "short", (total("roadstead_access_questions_waiting"), "{{instance}}")),
    panel("Not let in, not allowed", "Clients that were not who they said, and what rules deny.", "ops",
          *lines(("roadstead_authentications_refused_total", "authentication"), ("roadstead_publishes_denied_total", "publish"), ("roadstead_subscribes_denied_total", "subscribe"))),
]


def quantile(share):
    """Time of a commit that a share of them stays below."""
    return f"histogram_quantile({share}, sum by (le) (rate(roadstead_engine_commit_seconds_bucket{{{C}}}[$__rate_interval])))"


ENGINE = [
    panel("Commit time by share", "Half, and 99 of 100 commits take less.", "s", (quantile(0.5), "half"), (quantile(0.99), "99 of 100")),
    panel("Commits and commands", "Commands over commits is how many share one.", "ops",
          *lines(("roadstead_engine_commits_total", "commits"), ("roadstead_engine_commands_committed_total", "commands"))),
    panel("Space on disk", "What the store takes.", "bytes", (total("roadstead_engine_disk_bytes"), "{{instance}}")),
]

SYSTEM = [
    panel("Bytes to and from clients", "As the kernel takes and gives them.", "Bps", *lines(("roadstead_io_received_bytes_total", "in"), ("roadstead_io_sent_bytes_total", "out"))),
    panel("System calls", "That submit and wait.", "ops", (rate("roadstead_io_enters_total"), "{{instance}}")),
    panel("Shortages", "Receive buffers, completions, memory of the kernel, accepting.", "ops",
          *lines(("roadstead_io_receive_buffers_exhausted_total", "buffers"), ("roadstead_io_completion_overflows_total", "completions"),
                 ("roadstead_io_send_shortages_total", "memory"), ("roadstead_io_accept_errors_total", "accept"))),
    panel("Resident memory", "Of the process.", "bytes", (f"process_resident_memory_bytes{{{C}}}", "{{instance}}")),
    panel("Open files", "Of what the process may open.", "percentunit", (f"process_open_fds{{{C}}} / process_max_fds{{{C}}}", "{{instance}}")),
    table("Driver", "And why this one.", "none", (f"sum by (instance, backend, reason) (roadstead_io_backend_info{{{C}}})", ""), width=8, height=8),
]

NODE_DASHBOARD = {
    "uid": "roadstead-node",
    "title": "Roadstead / Node",
    "description": "Single nodes in detail: cores, queues, transports, engine, kernel.",
    "instances": True,
    "rows": [
        ("Overview", OVERVIEW),
        ("Cores", CORES),
        ("Messages", MESSAGES),
        ("Queues and bounds", QUEUES),
        ("TLS and QUIC", TRANSPORTS),
        ("Access", ACCESS),
        ("Engine", ENGINE),
        ("System", SYSTEM),
    ],
}
