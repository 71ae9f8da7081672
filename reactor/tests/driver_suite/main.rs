//! One suite over the three drivers: what a core may rely on whichever of them it runs on.
//!
//! Each case is a generic function over [`world::Setup`]; the real drivers are driven against `std::net` peers on 127.0.0.1,
//! the fake against its own. No case sleeps: it polls until a condition holds.

#![allow(
    clippy::disallowed_methods,
    reason = "the real drivers run in real time"
)]

mod closing;
mod connecting;
mod datagram_bounds;
mod datagrams;
mod keepalive;
mod limits;
mod random;
mod receiving;
mod sending;
mod setups;
mod waking;
mod world;

macro_rules! suite {
    ($($module:ident: $($case:ident),+;)+) => {
        suite!(@driver io_uring, Uring, $($module: $($case),+;)+);
        suite!(@driver epoll, Epoll, $($module: $($case),+;)+);
        suite!(@driver fake, Fake, $($module: $($case),+;)+);
    };
    (@driver $driver:ident, $setup:ident, $($module:ident: $($case:ident),+;)+) => {
        mod $driver {
            $($(
                #[test]
                fn $case() {
                    if <$crate::setups::$setup as $crate::world::Setup>::available() {
                        $crate::$module::$case::<$crate::setups::$setup>();
                    }
                }
            )+)+
        }
    };
}

suite! {
    receiving:
        accepted_connections_name_their_peer,
        single_bytes_arrive_in_order,
        a_large_stream_arrives_unchanged,
        few_buffers_serve_many_senders,
        a_paused_connection_closes_its_window,
        received_bytes_can_be_changed_and_buffers_recycled,
        busy_connections_leave_room_for_others;
    sending:
        small_sends_need_no_drained_event,
        a_slow_reader_gets_everything_and_one_drained_event,
        a_peer_that_never_stops_sending_does_not_hold_back_drained,
        drained_may_follow_the_end_of_the_peer,
        many_small_sends_go_out_in_order,
        a_peer_that_ended_its_side_still_gets_bytes,
        sent_vectors_come_back_empty;
    closing:
        a_graceful_close_delivers_everything_before_fin,
        a_graceful_close_gives_up_after_its_linger_time,
        an_abort_drops_what_is_queued,
        a_reset_ends_a_connection_with_an_error,
        a_reset_ends_a_send_in_flight,
        sending_to_a_closed_peer_ends_the_connection,
        both_sides_may_close_at_once,
        closing_twice_ends_once,
        a_paused_connection_can_be_closed,
        a_stale_id_does_nothing,
        a_dropped_driver_closes_everything;
    connecting:
        a_connection_that_was_opened_carries_bytes_both_ways,
        a_local_address_is_used,
        bytes_queued_before_connected_arrive,
        a_refused_connect_ends_with_its_error,
        a_connect_can_be_closed_at_once,
        a_stopped_listener_refuses_and_connections_stay,
        nothing_is_accepted_once_listening_stopped,
        a_connect_that_nobody_answers_can_be_closed;
    limits:
        connections_above_the_maximum_are_refused,
        connects_above_the_maximum_are_refused,
        as_many_connections_are_accepted_in_one_poll_as_may_be,
        polls_return_no_more_events_than_asked_for,
        thousands_of_events_survive_a_tiny_completion_queue;
    waking:
        many_wakes_make_one_event,
        no_wake_is_lost,
        no_wake_is_lost_while_sockets_gather,
        sockets_that_gather_are_told_of_together,
        a_deadline_ends_a_poll,
        a_deadline_ends_a_poll_that_gathers,
        a_fin_that_nobody_reads_keeps_no_core_busy;
    datagrams:
        a_datagram_arrives_whole_and_names_its_peer,
        a_batch_is_split_by_its_stride,
        a_transmit_of_several_datagrams_arrives_as_several,
        without_batches_every_datagram_is_an_event,
        a_transmit_longer_than_one_send_arrives_as_all_its_datagrams,
        many_peers_are_told_apart_and_answered,
        congestion_bits_arrive,
        the_local_address_is_told_and_answered_from,
        a_socket_with_a_peer_hears_nobody_else,
        many_client_sockets_have_addresses_of_their_own,
        received_datagrams_can_be_changed_and_buffers_recycled,
        sent_vectors_of_datagrams_come_back_empty,
        what_the_kernel_does_not_cut_goes_out_one_by_one,
        wakes_and_deadlines_work_with_datagram_sockets_alone;
    datagram_bounds:
        few_buffers_lose_nothing_that_the_socket_holds,
        the_newest_is_dropped_when_too_much_is_unsent,
        more_sends_than_may_be_in_flight_all_go_out,
        a_datagram_that_is_too_large_to_send_is_counted,
        a_batch_that_fits_no_buffer_is_dropped_and_counted,
        a_closed_port_is_counted_and_survived,
        sockets_above_the_maximum_are_refused,
        a_closed_socket_is_silent_and_its_id_stale,
        a_dropped_driver_closes_its_datagram_sockets,
        connections_and_datagrams_leave_room_for_each_other;
    random:
        random_traffic_ends_with_everything_accounted_for;
}

/// For the kernel's connections only: the driver in memory has none.
mod real {
    use crate::setups::{Epoll, Uring};
    use crate::world::Setup;

    #[test]
    fn accepted_connections_of_io_uring_inherit_the_keepalive_of_their_listener() {
        if Uring::available() {
            crate::keepalive::accepted_connections_inherit_the_keepalive_of_their_listener::<Uring>(
            );
        }
    }

    #[test]
    fn accepted_connections_of_epoll_inherit_the_keepalive_of_their_listener() {
        crate::keepalive::accepted_connections_inherit_the_keepalive_of_their_listener::<Epoll>();
    }
}

#[test]
fn hot_connections_are_promoted_and_quiet_ones_demoted() {
    if <setups::Uring as world::Setup>::available() {
        receiving::hot_connections_are_promoted_and_quiet_ones_demoted();
    }
}
