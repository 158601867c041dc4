//! Leading: links, offers, allocator, deadlines; services at the rim.
