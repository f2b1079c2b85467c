-- nothing
/* CREATE /* nested */ */ SELECT 1 -- end