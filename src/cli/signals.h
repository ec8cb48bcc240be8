// The signals by which a person or a service manager stops the program.
#pragma once

namespace skipway {

/// The first Ctrl-C, SIGTERM or hang-up of the terminal goes to `handler`; the same one again ends
/// the process at once. What is ignored stays so: a hang-up under nohup, Ctrl-C in a script's
/// background. May be called again, with another handler.
void handle_stop_signals(void (*handler)(int signal));

}  // namespace skipway
