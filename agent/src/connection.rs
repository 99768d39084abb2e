//! One HTTP/1.1 connection of our own, with stamps taken where bytes cross the socket.
