// The signals by which a person or a service manager stops the program.
#pragma once

namespace skipway {

/// The first Ctrl-C, SIGTERM or hang-up of the terminal goes to `handler`; the same one again, a
/// second later or more, ends the process at once. But for hang-ups, and what comes in that second:
/// a terminal that closes sends two, and so does `timeout`. What is ignored stays so: a hang-up
/// under nohup, Ctrl-C in a script's background. May be called again, with another handler.
void handle_stop_signals(void (*handler)(int signal));

}  // namespace skipway
