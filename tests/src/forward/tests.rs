use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tailcliff_proto::clock::HostClock;

use super::{Forwarder, Order, Way, Which};

/// Echoes whatever comes in, on two ports in a row; ends with the process.
fn echo() -> SocketAddr {
    let pair = || {
        let one = TcpListener::bind("127.0.0.1:0").ok()?;
        let address = one.local_addr().ok()?;
        let next = TcpListener::bind((address.ip(), address.port().checked_add(1)?)).ok()?;
        Some((address, [one, next]))
    };
    let (address, listeners) = std::iter::repeat_with(pair).take(100).find_map(|found| found).unwrap();
    for listener in listeners {
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                stream.set_nodelay(true).unwrap();
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
    }
    address
}

fn forwarder(to: SocketAddr) -> Forwarder {
    Forwarder::start(Ipv4Addr::new(127, 0, 0, 2).into(), to, Way::default(), Way::default()).unwrap()
}

fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Round trip of one byte, ns.
fn round_trip(stream: &mut TcpStream) -> i64 {
    let sent = HostClock.now();
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    HostClock.now() - sent
}

#[test]
fn both_ports_are_forwarded_whole_and_to_the_end() {
    let forwarder = forwarder(echo());
    let text: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    for ahead in 0..2 {
        let mut address = forwarder.address();
        address.set_port(address.port() + ahead);
        let stream = dial(address);
        let mut back = Vec::new();
        std::thread::scope(|threads| {
            threads.spawn(|| {
                (&stream).write_all(&text).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            });
            (&stream).read_to_end(&mut back).unwrap();
        });
        assert!(back == text, "{} bytes of {}", back.len(), text.len());
    }
    assert_eq!(forwarder.accepted(), 2);
}

#[test]
fn each_way_takes_its_time_and_jitter_is_added() {
    let forwarder = forwarder(echo());
    let mut stream = dial(forwarder.address());
    let least = |stream: &mut TcpStream| (0..20).map(|_| round_trip(stream)).min().unwrap();
    let plain = least(&mut stream);
    forwarder.obey(Order::Up(Way::constant(Duration::from_millis(3))));
    assert!(least(&mut stream) >= 3_000_000);
    forwarder.obey(Order::Down(Way::constant(Duration::from_millis(4))));
    let both = least(&mut stream);
    assert!((7_000_000..7_000_000 + plain + 5_000_000).contains(&both), "{both} and {plain}");
    let jittery = Way { jitter: Duration::from_millis(5), seed: 3, ..Way::default() };
    forwarder.obey(Order::Up(jittery));
    let mut trips: Vec<i64> = (0..20).map(|_| round_trip(&mut stream)).collect();
    trips.sort_unstable();
    assert!(trips[19] - trips[0] > 5_000_000, "no two alike: {trips:?}");
}

#[test]
fn a_cut_resets_and_refuses_until_it_heals() {
    let forwarder = forwarder(echo());
    let mut stream = dial(forwarder.address());
    round_trip(&mut stream);
    forwarder.cut();
    assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let refused = || TcpStream::connect(forwarder.address()).err().map(|e| e.kind());
    let within = |mut found: Box<dyn FnMut() -> bool + '_>| {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            found()
        })
    };
    assert!(within(Box::new(|| refused() == Some(ErrorKind::ConnectionRefused))));
    assert_eq!(forwarder.connections(), 0);
    forwarder.heal();
    assert!(within(Box::new(|| TcpStream::connect(forwarder.address()).is_ok())));
    round_trip(&mut dial(forwarder.address()));
}

#[test]
fn what_is_swallowed_is_neither_answered_nor_ended_and_comes_when_it_heals() {
    let forwarder = forwarder(echo());
    let mut stream = dial(forwarder.address());
    round_trip(&mut stream);
    forwarder.swallow();
    // One piece may be past the look already.
    stream.write_all(b"ab").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut late = dial(forwarder.address());
    late.write_all(b"c").unwrap();
    let mut back = Vec::new();
    let mut piece = [0; 2];
    if let Ok(length) = stream.read(&mut piece) {
        back.extend_from_slice(&piece[..length]);
    }
    stream.write_all(b"d").unwrap();
    let silent = stream.read(&mut piece).unwrap_err();
    assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
    forwarder.heal();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    while back.len() < 3 {
        let length = stream.read(&mut piece).unwrap();
        assert!(length > 0, "it was never ended");
        back.extend_from_slice(&piece[..length]);
    }
    assert_eq!(back, b"abd");
    late.read_exact(&mut [0]).unwrap();
}

#[test]
fn orders_are_lines_of_text() {
    let way = Way { base: Duration::from_micros(280), jitter: Duration::from_micros(400), seed: 7 };
    for order in [Order::Up(way), Order::Down(way), Order::Cut, Order::Swallow, Order::Heal] {
        assert_eq!(order.to_string().parse(), Ok(order));
    }
    for bad in ["", "up", "up 1 2", "up 1 2 x", "cut 1", "sideways"] {
        assert!(bad.parse::<Order>().is_err(), "{bad}");
    }
}

/// Arrival times of ten bytes that are sent 20 ms apart, ms since the start; at the third `fault` comes.
fn ten_bytes(forwarder: &Forwarder, fault: impl Fn()) -> Vec<i64> {
    let mut stream = dial(forwarder.address());
    // From here on the server has spoken.
    round_trip(&mut stream);
    let mut reader = stream.try_clone().unwrap();
    let start = HostClock.now();
    let read = std::thread::spawn(move || {
        let mut one = || {
            reader.read_exact(&mut [0]).unwrap();
            (HostClock.now() - start) / 1_000_000
        };
        (0..10).map(|_| one()).collect()
    });
    for i in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        if i == 2 {
            fault();
        }
        stream.write_all(b"x").unwrap();
    }
    read.join().unwrap()
}

#[test]
fn a_hold_lets_go_at_once_and_a_late_piece_holds_up_all_behind_it() {
    let forwarder = forwarder(echo());
    let time = Duration::from_millis(400);
    for order in [Forwarder::hold, Forwarder::delay_one_piece] {
        let at = ten_bytes(&forwarder, || {
            assert_eq!(order(&forwarder, Which::One(7), time).len(), 1, "the only one that streams");
        });
        assert!(at[2] - at[1] >= 390, "{at:?}");
        assert!(at[9] - at[2] < 100, "all that waited comes at once: {at:?}");
    }
    let at = ten_bytes(&forwarder, || {
        assert_eq!(forwarder.hold(Which::Half(0), Duration::ZERO).len(), 1, "the first");
        assert_eq!(forwarder.hold(Which::Half(1), time).len(), 0, "there is no second");
    });
    assert!(at.windows(2).all(|w| w[1] - w[0] < 300), "{at:?}");
}
