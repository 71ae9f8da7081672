"""The dashboard of a whole cluster, or of a single node: who hurts and why, in one look."""

from panel import BAD, panel, stat, table

J = 'job="$job"'


def rate(metric, labels="", by="instance"):
    """Per second, by node."""
    chosen = f'{J}, {labels}' if labels else J
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


OVERVIEW = [
    stat("Nodes ready", "Nodes that take clients.", "none", f"sum(roadstead_ready{{{J}}})"),
    stat("Members", "Members of the view.", "none", f"max(roadstead_view_members{{{J}}})"),
    stat("Connected sessions", "Sessions whose client is connected.", "short", f"sum(roadstead_sessions_connected{{{J}}})"),
    stat("Publishes", "Publishes of clients a second.", "ops", f"sum(rate(roadstead_publishes_received_total{{{J}}}[$__rate_interval]))"),
    stat("Deliveries", "Messages delivered a second.", "ops", f"sum(rate(roadstead_deliveries_delivered_total{{{J}}}[$__rate_interval]))"),
    stat("Dropped", "Deliveries dropped a second, for any reason.", "ops", f"sum(rate(roadstead_deliveries_dropped_total{{{J}}}[$__rate_interval]))", ((1, "orange"),)),
    stat("Engines down", "Nodes whose engine stores nothing: no acknowledgement to publishers of durable sessions.", "none", f'sum(1 - roadstead_engine_state{{{J}, state="working"}})', BAD),
    stat("Cores stuck", "Cores that did not answer the last scrape.", "none", f"sum(1 - roadstead_core_answered{{{J}}})", BAD),
    stat("Fenced", "Nodes that have fenced themselves.", "none", f"sum(roadstead_fenced{{{J}}})", BAD),
    stat("Draining", "Nodes that take leave.", "none", f"sum(roadstead_draining{{{J}}})", ((1, "orange"),)),
    stat("Unaccounted", "Deliveries that no counter explains. Anything but 0 is a bug.", "none", f"sum(abs(roadstead_deliveries_unaccounted{{{J}}}))", BAD),
    stat("Core pressed", "Cores that tell most strangers to come later.", "none", f"sum(roadstead_pressed{{{J}}})", ((1, "orange"),)),
]

TRAFFIC = [
    panel("Publishes by node", "PUBLISH packets of clients.", "ops", (rate("roadstead_publishes_received_total"), "{{instance}}"), stacked=True),
    panel("Deliveries by node", "Completed: QoS 0 handed to the connection, QoS 1 and 2 acknowledged.", "ops", (rate("roadstead_deliveries_delivered_total"), "{{instance}}"), stacked=True),
    panel("Dropped by reason", "Deliveries that did not reach their subscriber. The runbook of RoadsteadDropping explains the reasons.", "ops", (rate("roadstead_deliveries_dropped_total", by="reason"), "{{reason}}"), stacked=True),
    panel("Acknowledged publishes", "PUBACK and PUBREC. Falls behind the publishes when the engine does.", "ops", (rate("roadstead_publishes_acknowledged_total"), "{{instance}}"), stacked=True),
    panel("Waiting for acknowledgement", "Bytes of publishes that are not acknowledged. At the bound publishers are not read.", "bytes", (f"sum by (instance) (roadstead_pending_bytes{{{J}}})", "{{instance}}"), stacked=True),
    panel("Queued for clients", "Bytes in the queues of connected clients.", "bytes", (f"sum by (instance) (roadstead_queued_bytes{{{J}}})", "{{instance}}"), stacked=True),
]

CLIENTS = [
    panel("Connections by node", "Connections open, handshakes included.", "short", (f"sum by (instance) (roadstead_connections{{{J}}})", "{{instance}}"), stacked=True),
    panel("Sessions", "Connected, and durable ones that are away.", "short",
          (f"sum(roadstead_sessions_connected{{{J}}})", "connected"), (f"sum(roadstead_sessions_offline{{{J}}})", "offline"), stacked=True),
    panel("Connects and ends", "CONNECTs that succeeded and connections that ended, of all nodes.", "ops",
          (f"sum(rate(roadstead_connects_total{{{J}}}[$__rate_interval]))", "connects"),
          (f"sum(rate(roadstead_connections_closed_total{{{J}}}[$__rate_interval]))", "ends")),
    panel("Turned away", "Clients at a bound of who may come in, by reason.", "ops", (rate("roadstead_turned_away_total", by="reason"), "{{reason}}"), stacked=True),
    panel("Refused", "CONNECTs answered with an error, connections without room, and who was not who he said.", "ops",
          (f"sum(rate(roadstead_connects_refused_total{{{J}}}[$__rate_interval]))", "CONNECT"),
          (f"sum(rate(roadstead_io_refused_total{{{J}}}[$__rate_interval]))", "no room"),
          (f"sum(rate(roadstead_authentications_refused_total{{{J}}}[$__rate_interval]))", "authentication")),
    panel("Take-overs and slow consumers", "Sessions taken over by a newer connection, and clients disconnected because they read too slowly.", "ops",
          (f"sum(rate(roadstead_takeovers_total{{{J}}}[$__rate_interval]))", "take-overs"),
          (f"sum(rate(roadstead_slow_consumers_disconnected_total{{{J}}}[$__rate_interval]))", "slow consumers")),
]

CLUSTER_ROW = [
    panel("Members of the view", "As each node sees it. Lines that differ are nodes that do not agree.", "none", (f"roadstead_view_members{{{J}}}", "{{instance}}")),
    panel("Changes of the view", "How often the epoch grew.", "none", (f"changes(roadstead_view_epoch{{{J}}}[$__rate_interval])", "{{instance}}")),
    panel("Oldest hand-over", "Age of the oldest hand-over that has not ended; 0 when there is none.", "s", (f"roadstead_handover_seconds{{{J}}}", "{{instance}}")),
    panel("Partitions by state", "Of all nodes together: 16,384.", "none", (f"sum by (state) (roadstead_partitions{{{J}}})", "{{state}}"), stacked=True),
    panel("Partitions by node", "How many each node serves.", "none", (f"sum by (instance) (roadstead_partitions{{{J}}})", "{{instance}}"), stacked=True),
    panel("Links down", "Links to members of the view that are down.", "none", (f'roadstead_bus_links{{{J}, state="down"}}', "{{instance}}")),
    panel("Bus traffic", "Bytes to other nodes.", "Bps", (rate("roadstead_bus_sent_bytes_total"), "{{instance}}"), stacked=True),
    panel("Bus unacknowledged", "Bytes that the other side has not acknowledged.", "bytes", (f"sum by (instance) (roadstead_bus_unacknowledged_bytes{{{J}}})", "{{instance}}"), stacked=True),
    panel("Bus drops", "Messages of QoS 0 that did not reach their node.", "ops", (rate("roadstead_bus_dropped_total", by="instance, reason"), "{{instance}} {{reason}}")),
]


def quantile(share):
    """Time of a commit that a share of them stays below, by node."""
    return f"histogram_quantile({share}, sum by (instance, le) (rate(roadstead_engine_commit_seconds_bucket{{{J}}}[$__rate_interval])))"


ENGINE = [
    panel("Commit time", "The slowest of a hundred commits, by node. Acknowledgements wait for them.", "s", (quantile(0.99), "{{instance}}")),
    panel("Commands", "Commands that the engine took.", "ops", (rate("roadstead_engine_commands_committed_total"), "{{instance}}"), stacked=True),
    panel("Engine failures", "Commits and syncs that failed, and were tried again.", "ops", (rate("roadstead_engine_failures_total"), "{{instance}}")),
]

RESOURCES = [
    panel("CPU", "CPUs in use.", "short", (rate("process_cpu_seconds_total"), "{{instance}}")),
    panel("Memory", "Resident memory.", "bytes", (f"process_resident_memory_bytes{{{J}}}", "{{instance}}")),
    panel("File descriptors", "Of what each node may open.", "percentunit", (f"process_open_fds{{{J}}} / process_max_fds{{{J}}}", "{{instance}}")),
    table("Nodes", "Version and driver of each.", "none",
          (f"sum by (instance, version) (roadstead_build_info{{{J}}})", ""),
          (f"sum by (instance, backend) (roadstead_io_backend_info{{{J}}})", "")),
]

CLUSTER = {
    "uid": "roadstead-cluster",
    "title": "Roadstead / Cluster",
    "description": "All nodes of a cluster: who hurts and why.",
    "instances": False,
    "rows": [
        ("Overview", OVERVIEW),
        ("Traffic", TRAFFIC),
        ("Clients", CLIENTS),
        ("Cluster", CLUSTER_ROW),
        ("Engine", ENGINE),
        ("Resources", RESOURCES),
    ],
}
