#include "cli/terminal.h"
