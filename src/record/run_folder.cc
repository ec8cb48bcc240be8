#include "record/run_folder.h"
