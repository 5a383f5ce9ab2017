//! Whose process is at the other end of a loopback connection, by the kernel's table of sockets.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The state of a socket that is connected. One that its process has let go of belongs to nobody any more.
const ESTABLISHED: &str = "01";

/// Whether the table is there.
pub(super) async fn check() -> io::Result<()> {
    tokio::fs::read(TABLES[0]).await.map(drop)
}

/// The user who has the socket at `from` that is connected to `to`. `None` where there is no such socket, and while it waits to be
/// accepted: the kernel calls it root's until then.
pub(super) async fn uid(from: SocketAddr, to: SocketAddr) -> Option<u32> {
    for (table, mapped) in TABLES.into_iter().zip([false, true]) {
        let (Some(from), Some(to)) = (written(from, mapped), written(to, mapped)) else { continue };
        // Without IPv6 there is no second table.
        let Ok(text) = tokio::fs::read_to_string(table).await else { continue };
        if let Some(uid) = text.lines().find_map(|line| owner(line, &from, &to)) {
            return Some(uid);
        }
    }
    None
}

fn owner(line: &str, from: &str, to: &str) -> Option<u32> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let found = fields.next()? == from && fields.next()? == to && fields.next()? == ESTABLISHED;
    let uid = found.then(|| fields.nth(3))??.parse().ok()?;
    // The inode; a socket that no process holds has none.
    (fields.nth(1)? != "0").then_some(uid)
}

/// An address as the table has it: words in the machine's order. A socket of IPv6 that calls an IPv4 address has it mapped.
fn written(address: SocketAddr, six: bool) -> Option<String> {
    let octets = match (address.ip(), six) {
        (IpAddr::V4(ip), false) => ip.octets().to_vec(),
        (IpAddr::V4(ip), true) => ip.to_ipv6_mapped().octets().to_vec(),
        (IpAddr::V6(ip), true) => ip.octets().to_vec(),
        (IpAddr::V6(_), false) => return None,
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let words: String = words.map(|word| format!("{word:08X}")).collect();
    Some(format!("{words}:{:04X}", address.port()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_kernel_knows_whose_a_connection_is() {
        let own = std::fs::metadata("/proc/self").unwrap().uid();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", to.port()).parse().unwrap();
        for dialled in [to, mapped] {
            let Ok(client) = TcpStream::connect(dialled).await else { continue };
            let (server, from) = listener.accept().await.unwrap();
            assert_eq!(uid(from, server.local_addr().unwrap()).await, Some(own), "{dialled}");
            assert_eq!(uid(to, to).await, None);
            drop(client);
            let mut gone = None;
            for _ in 0..100 {
                gone = uid(from, to).await;
                if gone.is_none() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(gone, None, "a socket that was let go belongs to nobody");
        }
    }

    #[test]
    fn a_line_of_the_table_is_read() {
        let line = "   2: 0100007F:83CF 0100007F:98B4 01 00000000:00000000 02:0000699F 00000000  1000        0 2713945 3 0 20 4 1 22 8";
        assert_eq!(owner(line, "0100007F:83CF", "0100007F:98B4"), Some(1000));
        let waiting = line.replace(" 2713945 ", " 0 ");
        assert_eq!(owner(&waiting, "0100007F:83CF", "0100007F:98B4"), None, "nobody has accepted it yet");
        assert_eq!(owner(line, "0100007F:98B4", "0100007F:83CF"), None);
        assert_eq!(owner(&line.replace(" 01 ", " 06 "), "0100007F:83CF", "0100007F:98B4"), None);
        assert_eq!(owner("  sl  local_address rem_address   st", "a", "b"), None);
    }
}
