// SPDX-License-Identifier: Apache-2.0
//! Two tenants over the native channel, one of them hostile; and sessions that die in every way.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use diolkos_client::types::{Code, HandleId};
use diolkos_client::{AnyTensor, Client, Error, Memory, Options, Token};
use diolkos_server::{TokenHash, new_token};
use diolkos_wire::{Extent, Infer, Message, Place, ResultPlace, TensorRef};

use crate::raw::{Raw, receive, send};
use crate::support::{Fixture, eventually};

const NONE: [(&str, AnyTensor); 0] = [];

/// Sockets `a.sock` and `b.sock`; `a` may run noop and echo, `b` those and `gate`.
fn two(limits_of_a: &str) -> Fixture {
    Fixture::start(&format!(
        "listen = [{{ address = \"unix:DIR/a.sock\", tenant = \"a\" }}, {{ address = \"unix:DIR/b.sock\", tenant = \"b\" }}]\n\
         [tenants.a]\n{limits_of_a}\nleases.all = {{ kind = \"compute\", operations = [\"noop\", \"echo\"] }}\n\
         [tenants.b]\nleases.all = {{ kind = \"compute\", operations = [\"noop\", \"echo\", \"gate\"] }}\n"
    ))
}

pub(crate) fn connect(fixture: &Fixture, tenant: &str, options: Options) -> Client {
    let address = format!("unix:{}", fixture.socket.with_file_name(format!("{tenant}.sock")).display());
    Client::connect_with(&address, options).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> (Code, String) {
    match result {
        Err(Error::Refused(status)) => (status.code(), status.message().to_owned()),
        other => panic!("{other:?}"),
    }
}

/// What is said of the other one's model, and of one that nobody has, differs in the name only.
fn hides(client: &Client) {
    for (theirs, nobodys) in [
        (refused(client.open("gate")), refused(client.open("nope"))),
        (refused(client.stats(Some("gate"))), refused(client.stats(Some("nope")))),
        (refused(client.load("gate")), refused(client.load("nope"))),
        (refused(client.unload("gate")), refused(client.unload("nope"))),
    ] {
        assert_eq!((theirs.0, theirs.1.replace("gate", "nope")), nobodys);
    }
    let names: Vec<String> = client.models().unwrap().iter().map(|model| model.name.to_string()).collect();
    assert!(!names.contains(&"gate".to_owned()) && names.contains(&"echo".to_owned()), "{names:?}");
    assert!(client.stats(None).unwrap().iter().all(|row| &*row.name != "gate"));
    client.open("noop").unwrap().infer(NONE).unwrap();
}

#[test]
fn the_others_models_do_not_exist() {
    let fixture = two("");
    hides(&connect(&fixture, "a", Options::default()));
    hides(&connect(&fixture, "a", Options { memory: Memory::Private, ..Options::default() }));
    assert!(connect(&fixture, "b", Options::default()).open("gate").is_ok());
}

#[test]
fn a_token_says_who_it_is_on_tcp() {
    let token = new_token().unwrap();
    let fixture = Fixture::start(&format!(
        "[tenants.a]\ntokens = [\"{}\"]\nleases.all = {{ kind = \"compute\", operations = [\"noop\", \"echo\"] }}\n",
        TokenHash::of(&token)
    ));
    let with = |token: &str| {
        let options =
            Options { memory: Memory::Private, token: Token(token.as_bytes().into()), ..Options::default() };
        Client::connect_with(&fixture.tcp, options)
    };
    hides(&with(&token).unwrap());
    for wrong in ["", "x", &token[..71], &TokenHash::of(&token).to_string(), &new_token().unwrap()] {
        let (code, text) = refused(with(wrong).map(|_| ()));
        assert_eq!(code, Code::PermissionDenied, "{wrong}: {text}");
    }
}

/// What a bridge gets that speaks for `tenant` over each transport; its own socket is `bridge.sock`.
fn on_behalf(fixture: &Fixture, socket: &str, tenant: &str) -> Vec<Result<Client, Error>> {
    let address = format!("unix:{}", fixture.socket.with_file_name(socket).display());
    let connect = |memory| {
        Client::connect_with(&address, Options { tenant: tenant.into(), memory, ..Options::default() })
    };
    vec![connect(Memory::Shared), connect(Memory::Private)]
}

#[test]
fn a_bridge_speaks_for_others_and_nobody_else_does() {
    let fixture = Fixture::start(
        "listen = [{ address = \"unix:DIR/bridge.sock\", tenant = \"bridge\" }, { address = \"unix:DIR/a.sock\", tenant = \"a\" }]\n\
         audit.file = \"DIR/audit.jsonl\"\n\
         [tenants.bridge]\nacts_for = [\"a\", \"x*\"]\nleases.all = { kind = \"compute\", operations = [\"gate\"] }\n\
         [tenants.a]\nregions_memory_max = \"1MiB\"\nleases.all = { kind = \"compute\", operations = [\"noop\", \"echo\"] }\n\
         [tenants.b]\nleases.all = { kind = \"compute\", operations = [\"gate\"] }\n",
    );
    // As whom it speaks for: their models, and their limits.
    for client in on_behalf(&fixture, "bridge.sock", "a") {
        hides(&client.unwrap());
    }
    let big = Options { tenant: "a".into(), region_bytes: 2 << 20, ..Options::default() };
    let bridge = format!("unix:{}", fixture.socket.with_file_name("bridge.sock").display());
    let big = Client::connect_with(&bridge, big).unwrap();
    assert_eq!(refused(big.tensor::<u8>(&[1000]).map(|_| ())).0, Code::TooLarge);
    // For itself.
    for client in on_behalf(&fixture, "bridge.sock", "") {
        client.unwrap().open("gate").unwrap();
    }
    // Somebody whom it may not speak for is nobody, and so is everybody to those who may speak for none.
    let said: Vec<_> = [
        ("bridge.sock", "b"),
        ("bridge.sock", "nope"),
        ("bridge.sock", "xyz"),
        ("a.sock", "a"),
        ("a.sock", "b"),
    ]
    .into_iter()
    .flat_map(|(socket, tenant)| on_behalf(&fixture, socket, tenant))
    .map(|client| refused(client.map(|_| ())))
    .collect();
    assert!(said.iter().all(|told| *told == said[0]), "{said:?}");
    assert_eq!(said[0].0, Code::PermissionDenied);
    let audit = std::fs::read_to_string(fixture.dir().join("audit.jsonl")).unwrap();
    assert!(audit.contains("\"action\":\"connect\"") && audit.contains("speak for"), "{audit}");
}

#[test]
fn who_is_turned_away_is_told_why() {
    let fixture = Fixture::start("[tenants.a]\nuids = [4294967294]\n");
    let (code, text) = refused(Client::connect(&fixture.unix()).map(|_| ()));
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!(code, Code::PermissionDenied);
    assert!(text.starts_with(&format!("uid {uid} may not use this daemon")), "{text}");
}

/// In a virtual machine, see `cargo xtask vm`.
#[test]
fn a_context_id_says_who_it_is_on_vsock() {
    let settings = |cid: u32| {
        format!(
            "[tenants.a]\ncids = [{cid}]\nleases.all = {{ kind = \"compute\", operations = [\"noop\", \"echo\"] }}\n"
        )
    };
    let connect = |fixture: &Fixture| {
        let address = fixture.vsock.as_ref()?;
        Some(Client::connect_with(address, Options { memory: Memory::Private, ..Options::default() }))
    };
    match connect(&Fixture::start(&settings(1))) {
        Some(client) => hides(&client.unwrap()),
        None => return eprintln!("skipped: this kernel has no loopback device for vsock"),
    }
    let (code, text) = refused(connect(&Fixture::start(&settings(7))).unwrap().map(|_| ()));
    assert_eq!(code, Code::PermissionDenied, "{text}");
}

#[test]
fn handles_and_regions_of_the_other_mean_nothing() {
    let fixture = two("");
    let socket = |tenant: &str| fixture.socket.with_file_name(format!("{tenant}.sock"));
    let (victim, hostile) = (Raw::new(&socket("b"), 8), Raw::new(&socket("a"), 8));
    let _region = victim.register(3, 4096);
    let echo = hostile.open("echo");
    // The same numbers that mean something to the victim, and numbers that mean nothing to anybody.
    let try_it = |handle: HandleId, region: u16| {
        let place = Place::Region(Extent { region, offset: 0, length: 8 });
        let infer = Infer {
            handle,
            inputs: vec![TensorRef {
                index: 0,
                data_type: diolkos_client::types::DataType::Uint64,
                shape: diolkos_client::types::Shape::new(&[1]).unwrap(),
                place,
            }],
            results: ResultPlace::Stream,
            ..Infer::new(handle)
        };
        send(&hostile.stream, 9, &Message::Infer(infer), &[]);
        match receive(&hostile.stream, &mut Vec::new()).1 {
            Message::Failed(failed) => (failed.code, failed.message.to_string()),
            other => panic!("{other:?}"),
        }
    };
    // The victim's second handle, and one that nobody has.
    let theirs = victim.open("gate");
    victim.open("gate");
    let (theirs, nobodys) =
        (HandleId { slot: theirs.slot + 1, ..theirs }, HandleId { slot: 700, generation: 0 });
    assert_eq!(try_it(theirs, 3), try_it(nobodys, 3));
    let (theirs, nobodys) = (try_it(echo, 3), try_it(echo, 9));
    assert_eq!((theirs.0, theirs.1.replace("region 3", "region 9")), nobodys);
}

#[test]
fn regions_are_charged_to_their_tenant() {
    let fixture = two("regions_memory_max = \"2MiB\"");
    let small = || Options { region_bytes: 512 << 10, ..Options::default() };
    let first = connect(&fixture, "a", small());
    let fill = |client: &Client| client.tensor::<u8>(&[1000]).map(|_| ());
    fill(&first).unwrap();
    let second = connect(&fixture, "a", small());
    fill(&second).unwrap();
    // Connections of one tenant share what it has, and another tenant has its own.
    let third = connect(&fixture, "a", small());
    assert_eq!(refused(fill(&third)).0, Code::TooLarge);
    fill(&connect(&fixture, "b", small())).unwrap();
    let used = || fixture.engine().tenants().iter().find(|t| t.id.name() == "a").unwrap().regions_memory;
    // Two regions, and the rings of three connections, which are all alike.
    let rings = (used() - (1 << 20)) / 3;
    assert!((256 << 10..300 << 10).contains(&rings), "{rings}");
    drop(first);
    eventually("what it had is free", || used() == (512 << 10) + 2 * rings);
    fill(&third).unwrap();
}

#[test]
fn rings_are_charged_like_regions() {
    let fixture = two("regions_memory_max = \"64KiB\"");
    let address = format!("unix:{}", fixture.socket.with_file_name("a.sock").display());
    let (code, text) = refused(Client::connect(&address).map(|_| ()));
    assert!(code == Code::TooLarge && text.contains("`regions_memory_max`"), "{text}");
    let few = Options { in_flight: 2, ..Options::default() };
    Client::connect_with(&address, few).unwrap().open("noop").unwrap().infer(NONE).unwrap();
}

#[test]
fn bytes_have_a_rate_for_each_tenant() {
    let fixture = two("bytes_rate = \"4KiB/s\"");
    for memory in [Memory::Shared, Memory::Private] {
        let client = connect(&fixture, "a", Options { memory, ..Options::default() });
        let echo = |client: &Client, bytes: u64| {
            let model = client.open("echo").unwrap();
            let (mut sent, spec) = (client.tensor::<u8>(&[bytes]).unwrap(), &model.inputs()[0]);
            sent.fill(7);
            model.infer([(&*spec.name, sent)]).map(|_| ())
        };
        // Within the rate there may be something larger than a second's, which has to be made up for.
        eventually("a large one is taken", || echo(&client, 10_000).is_ok());
        let (code, text) = refused(echo(&client, 1));
        assert!(code == Code::Busy && text.contains("`bytes_rate`"), "{text}");
        // The connection goes on, requests without bytes included, once it is made up for; and others have their own rate.
        echo(&connect(&fixture, "b", Options { memory, ..Options::default() }), 1 << 20).unwrap();
        eventually("it is made up for", || client.open("noop").unwrap().infer(NONE).is_ok());
    }
}

#[test]
fn bytes_in_regions_count_for_requests_over_the_socket_as_well() {
    let fixture = two("bytes_rate = \"4KiB/s\"");
    let raw = Raw::new(&fixture.socket.with_file_name("a.sock"), 8);
    let _region = raw.register(3, 64 << 10);
    let echo = raw.open("echo");
    let infer = || {
        let place = Place::Region(Extent { region: 3, offset: 0, length: 32 << 10 });
        let shape = diolkos_client::types::Shape::new(&[32 << 10]).unwrap();
        let data_type = diolkos_client::types::DataType::Uint8;
        let input = TensorRef { index: 0, data_type, shape, place };
        let infer =
            Infer { handle: echo, inputs: vec![input], results: ResultPlace::Stream, ..Infer::new(echo) };
        send(&raw.stream, 9, &Message::Infer(infer), &[]);
        receive(&raw.stream, &mut Vec::new()).1
    };
    assert!(matches!(infer(), Message::Inferred(_)));
    let Message::Failed(failed) = infer() else { panic!("32 KiB at 4 KiB a second are made up for so soon") };
    assert!(failed.code == Code::Busy && failed.message.contains("`bytes_rate`"), "{}", failed.message);
}

#[test]
fn sessions_have_a_bound_for_each_tenant() {
    let fixture = two("sessions_max = 2");
    let _held: Vec<Client> = (0..2).map(|_| connect(&fixture, "a", Options::default())).collect();
    let address = format!("unix:{}", fixture.socket.with_file_name("a.sock").display());
    let third = Client::connect_with(&address, Options::default());
    assert!(third.is_err(), "{third:?}");
    assert!(connect(&fixture, "b", Options::default()).open("noop").is_ok());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Memory of this process, which has the daemon in it, in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Everything that a session owns goes with it, however it ends. `DIOLKOS_DEATHS=10000` for the long run.
#[test]
fn nothing_is_left_of_sessions_that_die() {
    let deaths: usize = std::env::var("DIOLKOS_DEATHS").map_or(200, |text| text.parse().unwrap());
    let fixture = two("");
    let socket = fixture.socket.with_file_name("b.sock");
    let state = || {
        let engine = fixture.engine();
        let tenants = engine.tenants();
        let sum = |of: fn(&diolkos_engine::TenantSnapshot) -> u64| tenants.iter().map(of).sum::<u64>();
        (
            engine.sessions(),
            engine.request_memory_used(),
            sum(|tenant| tenant.in_flight),
            sum(|tenant| tenant.regions_memory),
            engine.jobs(),
        )
    };
    // One of each first, so that what is made once is there before counting.
    let die = |how: usize| {
        let mut raw = Raw::new(&socket, 8);
        let _region = raw.register(3, 64 << 10);
        match how % 5 {
            // With requests under way in the ring, ...
            0 => {
                let entry = raw.noop_entry(8);
                raw.put(&entry);
            }
            // ... in the middle of a message, ...
            1 => (&raw.stream).write_all(&[7; 5]).unwrap(),
            // ... with a body that was announced, ...
            2 => {
                let mut stream = UnixStream::connect(&socket).unwrap();
                stream
                    .write_all(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\n{\"inp")
                    .unwrap();
            }
            // ... politely, ...
            3 => send(&raw.stream, 99, &Message::Goodbye, &[]),
            // ... or just so.
            _ => {}
        }
    };
    (0..10).for_each(die);
    let at_rest = (0, 0, 0, 0, 0);
    eventually("the first ones are gone", || state() == at_rest);
    let (files, memory) = (open_files(), resident());
    (0..deaths).for_each(die);
    eventually("all are gone", || state() == at_rest);
    eventually("their descriptors, too", || open_files() <= files + 4);
    // Allocators keep some; a session that left 6 KiB behind would show in the long run.
    let grown = resident().saturating_sub(memory);
    assert!(grown < 64 << 10, "{deaths} deaths left {grown} KiB");
    eprintln!("{deaths} deaths: {memory} KiB before, {} after", memory + grown);
    // And it serves as before.
    connect(&fixture, "b", Options::default()).open("noop").unwrap().infer(NONE).unwrap();
}
